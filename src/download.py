"""Stage download: fetch or draw the archive of the dataset; it is never unpacked.

Reads   params.yaml
Writes  data/<name>/archive, data/<name>/source.json
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import glob
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.config.dataset import LabelParams
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.sample import drawings
from finegrain.sources import archive, cifar100, kaggle


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
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
    if encoding := getattr(dataset, "name_encoding", None):
        origin["name_encoding"] = encoding
    match dataset:
        case params.SampleDataset():
            drawings.write_zip(folder, dataset.images_per_class, dataset.image_size, config.seed)
        case params.KaggleDataset():
            kaggle.download(dataset.slug, folder)
            store_tables(dataset.labels, [], folder)
            origin["slug"] = dataset.slug
        case params.ArchiveDataset():
            sources = [dataset.path] if isinstance(dataset.path, str) else dataset.path
            archive.store_local(sources, folder, dataset.labels is None, dataset.name_encoding)
            store_tables(dataset.labels, sources, folder)
        case params.Cifar100Dataset(slug=None, path=str(path)):
            cifar100.convert(paths.user_path(path), folder)
            origin["path"] = Path(path).name
        case params.Cifar100Dataset(slug=str(slug)):
            downloaded = folder / ".downloaded"
            cifar100.convert(kaggle.download(slug, downloaded), folder)
            shutil.rmtree(downloaded)
            origin["slug"] = slug
    return origin


def store_tables(labels: LabelParams | None, sources: Sequence[str], folder: Path) -> None:
    """Copy the files with labels that are local beside the archive's copy; the others must be inside it."""
    places = [paths.user_path(source) for source in sources]
    for name in labels.file_names if labels else ():
        if (file := local_table(name, places)) is not None:
            target = archive.table_file(folder, name)
            if target.exists():
                raise UserError(f"dataset.labels: two files are called {target.name}; rename one")
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def local_table(name: str, places: Sequence[Path]) -> Path | None:
    """Find a file relative to the project, beside an archive or folder, or anywhere in a folder.

    Args:
        places: the archives and folders with the images.
    """
    folders = [place for place in places if place.is_dir()]
    for file in (paths.user_path(name), *(place.parent / name for place in places)):
        if file.is_file():
            return file
    inside = (
        (file.relative_to(place).as_posix(), file)
        for place in folders
        for file in place.rglob(glob.escape(Path(name).name))
        if file.is_file()
    )
    fitting = {path: file for path, file in inside if archive.ends_with(path, name)}
    return fitting[archive.only_path(name, fitting, [])] if fitting else None


if __name__ == "__main__":
    process.run_main(main)
