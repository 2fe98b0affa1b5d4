"""Stage download: put one readable archive into place; it is never unpacked.

Reads   params.yaml
Writes  data/<name>/archive, metrics/<name>/data/source.json
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    with file_io.replace_folder(data.archive) as folder:
        origin = fetch(config, folder)
        facts = origin | archive.describe(folder)
        expected = getattr(config.dataset, "sha256", None) or facts["sha256"]
        if facts["sha256"] != expected:
            raise UserError(
                f"params.yaml: dataset.sha256 is {expected}, but what was fetched has {facts['sha256']}; "
                "if the new archive is the one you want, put its sha256 there"
            )
    file_io.write_json(data.source, facts)


def fetch(config: params.Params, folder: Path) -> dict[str, Any]:
    """Fill the folder; returns where from, without this machine's paths."""
    dataset = config.dataset
    origin: dict[str, Any] = {"source": dataset.source}
    match dataset:
        case params.SampleDataset():
            from finegrain.sources import sample

            sample.write_zip(folder, dataset.images_per_class, dataset.image_size, config.seed)
        case params.KaggleDataset():
            from finegrain.sources import kaggle

            kaggle.download(dataset.slug, folder)
            origin["slug"] = dataset.slug
        case params.ArchiveDataset():
            archive.store_local(dataset.path, folder)
        case params.Cifar100Dataset(slug=None, path=str(path)):
            from finegrain.sources import cifar100

            cifar100.convert(paths.user_path(path), folder)
            origin["path"] = Path(path).name
        case params.Cifar100Dataset(slug=str(slug)):
            from finegrain.sources import cifar100, kaggle

            fetched = folder / ".fetched"
            cifar100.convert(kaggle.download(slug, fetched), folder)
            shutil.rmtree(fetched)
            origin["slug"] = slug
    return origin


if __name__ == "__main__":
    process.run_main(main)
