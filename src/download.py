"""Stage download: put one readable archive into place; it is never unpacked.

Reads   params.yaml
Writes  data/<name>/archive, metrics/<name>/data/source.json
"""

from finegrain import stage  # isort: skip  (first: it ends this process with dvc)
import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finegrain import params, paths, record
from finegrain.errors import UserError
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.read()
    data = paths.Data(config.dataset.name)
    with record.replacing_folder(data.archive) as folder:
        origin = fetch(config, folder)
        facts = origin | archive.describe(folder)
        expected = getattr(config.dataset, "sha256", None) or facts["sha256"]
        if facts["sha256"] != expected:
            raise UserError(
                f"params.yaml: dataset.sha256 is {expected}, but what was fetched has {facts['sha256']}; "
                "if the new archive is the one you want, put its sha256 there"
            )
    record.write_json(data.source, facts)


def fetch(config: params.Params, folder: Path) -> dict[str, Any]:
    """Fill the folder; returns where from, without this machine's paths."""
    dataset = config.dataset
    origin: dict[str, Any] = {"source": dataset.source}
    match dataset:
        case params.Sample():
            from finegrain.sources import sample

            sample.draw(folder, dataset.images_per_class, dataset.side_pixels, config.seed)
        case params.Kaggle():
            from finegrain.sources import kaggle

            kaggle.fetch(dataset.slug, folder)
            origin["slug"] = dataset.slug
        case params.Archive():
            archive.store(dataset.path, folder)
        case params.Cifar100(slug=None, path=str(path)):
            from finegrain.sources import cifar

            cifar.convert(paths.given(path), folder)
            origin["path"] = Path(path).name
        case params.Cifar100(slug=str(slug)):
            from finegrain.sources import cifar, kaggle

            fetched = folder / ".fetched"
            cifar.convert(kaggle.fetch(slug, fetched), folder)
            shutil.rmtree(fetched)
            origin["slug"] = slug
    return origin


if __name__ == "__main__":
    stage.main(main)
