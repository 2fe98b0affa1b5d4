"""Where each file of the project is, relative to the current folder.

A copy of the project therefore uses its own files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
REPORTS = Path("reports")
LEADERBOARD = REPORTS / "leaderboard.json"


def workspace() -> Path:
    """The project's folder; `dvc exp run --temp` and queues run in copies in its ``.dvc/tmp/exps/``."""
    for folder in Path.cwd().parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return Path()


def checkpoints_folder() -> Path:
    """Folder with the checkpoints of interrupted runs.

    It is the workspace's also in an experiment, because DVC deletes the experiment's folder.
    """
    return workspace() / ".checkpoints"


def user_path(text: str) -> Path:
    """A file or folder that params.yaml names: relative to the current folder, or else to the workspace."""
    path = Path(os.path.expanduser(text))  # Path.expanduser fails on a name such as ~$a.zip
    return path if path.exists() else workspace() / path


def winner_folder(dataset: str) -> Path:
    """Folder with the leaderboard's best model, a DVC artifact with the file names of `finegrain export`."""
    return Path("winner") / dataset


def exported_model(folder: Path) -> tuple[Path, Path]:
    """The weights file and the sidecar in a folder that stage winner or `finegrain export` writes."""
    return folder / "model.safetensors", folder / "model.json"


def winner_metrics(dataset: str) -> Path:
    """JSON with the winner's name and its chosen metric on test and validation, to sort `dvc exp show` by."""
    return Path("metrics") / dataset / "winner.json"


@dataclass(frozen=True)
class Dataset:
    """The files of one dataset, written by the stages download, split and pack."""

    name: str

    @property
    def folder(self) -> Path:
        return Path("data") / self.name

    @property
    def inputs(self) -> Path:
        """Folder of links to the local files that params.yaml names, by which DVC notices their changes."""
        return self.folder / "inputs"

    @property
    def download_inputs(self) -> Path:
        """JSON of all that the archive is made from. Tracked by git, for clones without the local files."""
        return REPORTS / self.name / "inputs" / "download.json"

    @property
    def corrections_inputs(self) -> Path:
        """JSON with the SHA-256 of the table of corrections. Tracked by git."""
        return REPORTS / self.name / "inputs" / "corrections.json"

    @property
    def weights_inputs(self) -> Path:
        """Folder with a JSON for each model: what its initial weights are. Tracked by git."""
        return REPORTS / self.name / "inputs" / "weights"

    @property
    def archive(self) -> Path:
        """Folder with the archive, in one file or several parts; it is never unpacked."""
        return self.folder / "archive"

    @property
    def download_record(self) -> Path:
        """The content of ``source``, as stage download writes it.

        Kept by DVC alone: with an output that git tracks the stage would have no run cache, and going back to
        an earlier dataset would download it again.
        """
        return self.folder / "source.json"

    @property
    def source(self) -> Path:
        """JSON with the source, SHA-256 and size of each archive file. Tracked by git."""
        return REPORTS / self.name / "source.json"

    @property
    def manifest(self) -> Path:
        """CSV of the images in use: ``manifest.COLUMNS``."""
        return self.folder / "manifest.csv"

    @property
    def split_summary(self) -> Path:
        """JSON with the numbers of images and classes, and the SHA-256 of the manifest. Tracked by git."""
        return REPORTS / self.name / "split.json"

    @property
    def rejected(self) -> Path:
        """CSV (path, reason) of the images that are not used. Tracked by git."""
        return REPORTS / self.name / "rejected.csv"

    @property
    def near_duplicates(self) -> Path:
        """CSV of the test images that are near-duplicates of a train or val image. Tracked by git."""
        return REPORTS / self.name / "near_duplicates.csv"

    @property
    def class_balance(self) -> Path:
        """CSV (class, split, images), a DVC plot. Tracked by git."""
        return Path("plots") / self.name / "data" / "class_balance.csv"

    @property
    def pack(self) -> Path:
        """Folder with the arrays of each split and pack.json."""
        return self.folder / "pack"


@dataclass(frozen=True)
class Run:
    """The files of one run, which is a model trained with one seed; written by train and evaluate."""

    dataset: str
    model: str
    seed: int

    @property
    def name(self) -> str:
        """``<model>-<seed>``, as in the DVC stage ``train@<model>-<seed>``."""
        return f"{self.model}-{self.seed}"

    @classmethod
    def from_name(cls, dataset: str, name: str) -> "Run":
        """The run with a ``name`` such as ``resnet18-0``.

        Raises:
            ValueError: the name does not end with a seed.
        """
        model, _, seed = name.rpartition("-")
        return cls(dataset, model, int(seed))

    @property
    def weights(self) -> Path:
        """Weights as safetensors."""
        return Path("models") / self.dataset / f"{self.name}.safetensors"

    @property
    def sidecar(self) -> Path:
        """JSON with the model's metadata: classes, recipe, preprocessing, temperature."""
        return Path("models") / self.dataset / f"{self.name}.json"

    @property
    def metrics(self) -> Path:
        """JSON of the few rounded metrics that DVC's tables show; ``results`` has the exact values."""
        return Path("metrics") / self.dataset / f"{self.name}.json"

    @property
    def results(self) -> Path:
        """JSON of all that stage evaluate measured, and of what training chose. Tracked by git.

        Bit-identical for the same commit, data and kind of machine.
        """
        return REPORTS / self.dataset / "results" / f"{self.name}.json"

    @property
    def cost(self) -> Path:
        """JSON of seconds, images per second and memory, which differ from run to run."""
        return Path("models") / self.dataset / f"{self.name}.cost.json"

    @property
    def predictions(self) -> Path:
        """Parquet table of the predictions for the test images."""
        return Path("data") / self.dataset / "predictions" / f"{self.name}.parquet"

    @property
    def correct(self) -> Path:
        """CSV of which test predictions are correct (``predictions.correct_rows``). Tracked by git."""
        return REPORTS / self.dataset / "correct" / f"{self.name}.csv"

    @property
    def doubtful_labels(self) -> Path:
        """CSV of the images with the most doubtful labels. Tracked by git."""
        return REPORTS / self.dataset / "doubtful_labels" / f"{self.name}.csv"

    @property
    def gallery(self) -> Path:
        """JSON that contains photos of the dataset: kept by DVC, because they may not belong in git."""
        return Path("data") / self.dataset / "gallery" / f"{self.name}.json"

    @property
    def leave_one_out(self) -> Path:
        """NumPy arrays of the training images' leave-one-out predictions; none if no phase is solved."""
        return Path("data") / self.dataset / "leave_one_out" / f"{self.name}.npz"

    @property
    def history(self) -> Path:
        """CSV with a row for each epoch.

        ``loss`` and ``lr`` repeat some of its columns, because DVC plots all files of a folder the same way.
        """
        return Path("plots") / self.dataset / "history" / f"{self.name}.csv"

    @property
    def loss(self) -> Path:
        """CSV (epoch, train_loss, val_loss), a DVC plot."""
        return Path("plots") / self.dataset / "loss" / f"{self.name}.csv"

    @property
    def lr(self) -> Path:
        """CSV (epoch, lr), a DVC plot."""
        return Path("plots") / self.dataset / "lr" / f"{self.name}.csv"

    @property
    def lr_range(self) -> Path:
        """Folder with a CSV (log10_lr, lr, loss, smoothed_loss) for each phase.

        A phase without an LR range test has a header line only.
        """
        return Path("plots") / self.dataset / "lr_range" / self.name

    @property
    def confusion(self) -> Path:
        """PNG of the confusion matrix of the test images."""
        return Path("plots") / self.dataset / "confusion" / f"{self.name}.png"

    @property
    def reliability(self) -> Path:
        """PNG of the reliability diagram of the test images."""
        return Path("plots") / self.dataset / "reliability" / f"{self.name}.png"

    @property
    def intervals(self) -> Path:
        """JSON of the 95 % interval of each test metric. Tracked by git."""
        return REPORTS / self.dataset / "intervals" / f"{self.name}.json"

    @property
    def per_class(self) -> Path:
        """CSV of the recall of each class, a DVC plot."""
        return Path("plots") / self.dataset / "per_class" / f"{self.name}.csv"
