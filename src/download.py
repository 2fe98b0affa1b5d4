"""Stage download: fetch or draw the archive of the dataset; it is never unpacked.

Reads   params.yaml
Writes  data/<name>/archive, data/<name>/source.json
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
from finegrain.sources import archive, cifar100, kaggle, sample


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    with file_io.replace_folder(data.archive) as folder:
        source = fetch(config, folder) | archive.describe(folder)
        expected = getattr(config.dataset, "sha256", None) or source["sha256"]
        if source["sha256"] != expected:
            raise UserError(
                f"params.yaml: dataset.sha256 is {expected}, but the archive has {source['sha256']}; "
                "if this is the archive you want, change dataset.sha256"
            )
    file_io.write_json(data.download_record, source)


def fetch(config: params.Params, folder: Path) -> dict[str, Any]:
    """Put the archive into ``folder``; return where it came from, without this machine's paths."""
    dataset = config.dataset
    origin: dict[str, Any] = {"source": dataset.source}
    match dataset:
        case params.SampleDataset():
            sample.write_zip(folder, dataset.images_per_class, dataset.image_size, config.seed)
        case params.KaggleDataset():
            kaggle.download(dataset.slug, folder)
            origin["slug"] = dataset.slug
        case params.ArchiveDataset():
            archive.store_local(dataset.path, folder)
        case params.Cifar100Dataset(slug=None, path=str(path)):
            cifar100.convert(paths.user_path(path), folder)
            origin["path"] = Path(path).name
        case params.Cifar100Dataset(slug=str(slug)):
            downloaded = folder / ".downloaded"
            cifar100.convert(kaggle.download(slug, downloaded), folder)
            shutil.rmtree(downloaded)
            origin["slug"] = slug
    return origin


if __name__ == "__main__":
    process.run_main(main)
