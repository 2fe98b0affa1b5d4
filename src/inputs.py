"""Stage inputs: link the local files that params.yaml names, and write down what later stages depend on.

DVC follows the links, so `dvc status` shows a changed file. Where a file is not on this machine, what was
recorded of it stays, and no later stage runs.

Reads   params.yaml; the files that it names
Writes  data/<name>/inputs/images, labels (corrections too) and weights, which are links;
        reports/<name>/inputs/download.json, corrections.json and weights/<model>.json
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.config import weights as weights_names
from finegrain.core import file_io, local_files, log, paths
from finegrain.core.errors import UserError, some

WRITTEN_FOLDERS = ("models", "winner")
"""Where the pipeline itself keeps models."""


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    images, tables = local_images(config.dataset), local_tables(config.dataset)
    corrections = [config.dataset.corrections] if config.dataset.corrections else []
    weights = {model: weights_files(config.weights_of(model)) for model in config.models}
    for name in images:
        local_files.photos_path(name)  # rejects one that DVC must not follow
    origin = config.dataset.model_dump(mode="json", exclude={"name", "path", "labels", "corrections"})
    if origin.get("name_encoding") is None:
        origin.pop("name_encoding", None)
    if isinstance(config.dataset, params.SampleDataset):
        origin["seed"] = config.seed
    with local_files.ContentHashes() as hashes:
        record(data.download_inputs, origin | {"images": images, "labels": tables}, "dataset.path", hashes)
        record(data.corrections_inputs, {"corrections": corrections}, "dataset.corrections", hashes)
        for model, files in weights.items():
            values: dict[str, Any] = files or {"name": config.weights_of(model)}
            record(data.weights_inputs / f"{model}.json", values, "weights", hashes)
    for file in data.weights_inputs.iterdir():
        if file.stem not in weights:
            file.unlink()
    weights_paths = sorted({name for files in weights.values() for names in files.values() for name in names})
    linked = {"images": images, "labels": [*tables, *corrections], "weights": weights_paths}
    for kind, names in linked.items():
        local_files.link(
            [file for name in names if (file := paths.user_path(name)).exists()], data.inputs / kind
        )


def local_images(dataset: Any) -> list[str]:
    """The archives or folders of a local dataset, as params.yaml names them."""
    path = getattr(dataset, "path", None) or []
    return [path] if isinstance(path, str) else list(path)


def local_tables(dataset: Any) -> list[str]:
    """The files with labels in the project or beside an archive; those within an archive are part of it."""
    names = dataset.label_params.file_names if dataset.label_params else []
    folders = [Path(), *(Path(image).parent for image in local_images(dataset))]
    beside = ([str(folder / name) for folder in folders] for name in names)
    return [
        found[0] for each in beside if (found := [path for path in each if paths.user_path(path).is_file()])
    ]


def weights_files(weights: str) -> dict[str, list[str]]:
    """A file with weights, and the metadata file beside it; empty for weights by name.

    Raises:
        UserError: the file is one that the pipeline writes.
    """
    file = weights_names.local_file(weights)
    if file is None:
        return {}
    for folder in (base / name for base in (Path(), paths.workspace()) for name in WRITTEN_FOLDERS):
        if file.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"params.yaml: weights: {weights}: DVC removes and replaces what is in {folder.name}; name a "
                "copy: `cp -r winner/NAME ../NAME-1` and weights: ../NAME-1; or export it: `finegrain export`"
            )
    metadata = weights_names.metadata_file(file)
    return {"weights": [str(file)], "metadata": [str(metadata)] if metadata else []}


def record(file: Path, values: dict[str, Any], key: str, hashes: local_files.ContentHashes) -> None:
    """Write the values, with the content's hash for each list of files in them.

    If a file is missing, what was recorded under the same names stays.

    Raises:
        UserError: a file is missing, and no file of its name is recorded.
    """
    named = {kind: list(names) for kind, names in values.items() if isinstance(names, list)}
    files = [paths.user_path(name) for names in named.values() for name in names]
    if missing := [file for file in files if not file.exists()]:
        recorded = file_io.read_json(file) if file.is_file() else {}
        first = next(iter(named))  # tables beside a missing archive cannot be looked for
        if [each["name"] for each in recorded.get(first, [])] != [local_files.name(n) for n in named[first]]:
            raise local_files.not_found(key, *missing)
        log.info(f"{some(missing)}: not on this machine, so what {file} has recorded of it stays")
        return
    described = {
        kind: [hashes.describe(paths.user_path(name)) for name in names] for kind, names in named.items()
    }
    file_io.write_json(file, values | described)


if __name__ == "__main__":
    process.run_main(main)
