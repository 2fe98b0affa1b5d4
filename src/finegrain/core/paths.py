"""Where each artefact lives, relative to the current folder: a copy of the tree uses its own files."""

import os
from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
REPORTS = Path("reports")
LEADERBOARD = REPORTS / "leaderboard.json"


def workspace() -> Path:
    """The project's own folder: `dvc exp run --temp` and queues run in copies at ``.dvc/tmp/exps/``."""
    for folder in Path.cwd().parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return Path()


def checkpoints_folder() -> Path:
    """Folder of interrupted runs' states; experiments share the workspace's, as DVC deletes their own."""
    return workspace() / ".checkpoints"


def user_path(text: str) -> Path:
    """A file or folder that params.yaml names: seen from here, else, in an experiment, from the workspace."""
    path = Path(os.path.expanduser(text))  # leaves a name such as ~$a.zip as it is
    return path if path.exists() else workspace() / path


def winner_folder(dataset: str) -> Path:
    """Folder of the leaderboard's winner, in the form of `finegrain export`'s: a DVC artifact."""
    return Path("winner") / dataset


def exported_model(folder: Path) -> tuple[Path, Path]:
    """Weights and sidecar in the folder that stage winner or `finegrain export` writes."""
    return folder / "model.safetensors", folder / "model.json"


@dataclass(frozen=True)
class Dataset:
    """The files of one dataset, made by download, split and pack."""

    name: str

    @property
    def folder(self) -> Path:
        return Path("data") / self.name

    @property
    def archive(self) -> Path:
        """Folder with the archive's file, or its part files; nothing in it is ever unpacked."""
        return self.folder / "archive"

    @property
    def source(self) -> Path:
        """Provenance: source, sha256 and size of each archive file. Tracked by git."""
        return Path("metrics") / self.name / "data" / "source.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    @property
    def split_metrics(self) -> Path:
        return Path("metrics") / self.name / "data" / "split.json"

    @property
    def rejected(self) -> Path:
        """CSV (path, reason) of the images left out. Tracked by git."""
        return Path("reports") / self.name / "rejected.csv"

    @property
    def near_duplicates(self) -> Path:
        """CSV of test images that nearly repeat a train or val image. Tracked by git."""
        return Path("reports") / self.name / "near_duplicates.csv"

    @property
    def class_balance(self) -> Path:
        """CSV (class, split, images), a DVC plot. Tracked by git."""
        return Path("plots") / self.name / "data" / "class_balance.csv"

    @property
    def pack(self) -> Path:
        return self.folder / "pack"


@dataclass(frozen=True)
class Run:
    """The files of one training: a model and a seed on one dataset; made by train and evaluate."""

    dataset: str
    model: str
    seed: int

    @property
    def name(self) -> str:
        """As DVC names its stages: ``train@<model>-<seed>``."""
        return f"{self.model}-{self.seed}"

    @classmethod
    def from_name(cls, dataset: str, name: str) -> "Run":
        """The run of a ``name`` such as ``resnet18-0``.

        Raises:
            ValueError: it ends in no seed.
        """
        model, _, seed = name.rpartition("-")
        return cls(dataset, model, int(seed))

    @property
    def weights(self) -> Path:
        return Path("models") / self.dataset / f"{self.name}.safetensors"

    @property
    def sidecar(self) -> Path:
        return Path("models") / self.dataset / f"{self.name}.json"

    @property
    def metrics(self) -> Path:
        """Quality: the same bits for the same commit, data and machine kind."""
        return Path("metrics") / self.dataset / f"{self.name}.json"

    @property
    def cost(self) -> Path:
        """Seconds, images per second, memory: different in every run."""
        return Path("metrics") / self.dataset / "cost" / f"{self.name}.json"

    @property
    def predictions(self) -> Path:
        return Path("data") / self.dataset / "predictions" / f"{self.name}.parquet"

    @property
    def correct(self) -> Path:
        """CSV of which predictions are right (``predictions.right``). Tracked by git."""
        return REPORTS / self.dataset / "correct" / f"{self.name}.csv"

    @property
    def gallery(self) -> Path:
        """JSON with photos of the dataset inside: kept by DVC, as they may not belong in git."""
        return Path("data") / self.dataset / "gallery" / f"{self.name}.json"

    @property
    def history(self) -> Path:
        """CSV, one row an epoch; the next two hold columns of it, because DVC plots a folder in one way."""
        return Path("plots") / self.dataset / "history" / f"{self.name}.csv"

    @property
    def loss(self) -> Path:
        return Path("plots") / self.dataset / "loss" / f"{self.name}.csv"

    @property
    def lr(self) -> Path:
        return Path("plots") / self.dataset / "lr" / f"{self.name}.csv"

    @property
    def lr_range(self) -> Path:
        """Folder of one CSV (log10_lr, lr, loss, smoothed_loss) a phase: no rows without an LR range test."""
        return Path("plots") / self.dataset / "lr_range" / self.name

    @property
    def confusion(self) -> Path:
        return Path("plots") / self.dataset / "confusion" / f"{self.name}.png"

    @property
    def reliability(self) -> Path:
        return Path("plots") / self.dataset / "reliability" / f"{self.name}.png"

    @property
    def intervals(self) -> Path:
        """95 % interval of each test metric, JSON: not among the metrics, whose differences are shown."""
        return REPORTS / self.dataset / "intervals" / f"{self.name}.json"

    @property
    def per_class(self) -> Path:
        return Path("plots") / self.dataset / "per_class" / f"{self.name}.csv"
