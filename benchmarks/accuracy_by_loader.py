"""Check that the speed costs no accuracy: python benchmarks/accuracy_by_loader.py

Trains the network of the embedded sample in three ways that should differ only in speed: as the project does;
in float32; and with plain torchvision's decoder, transforms and loader before the same step. Reports
validation top-1 over several seeds, with 95 % intervals and differences paired by seed and image, as
Markdown, printed and written to the folder --out. Takes about ten minutes on two cores.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
import command_line  # noqa: E402
import numpy as np  # noqa: E402
import shared  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torchvision import datasets, io  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from finegrain.augmentation import sampling, transform  # noqa: E402
from finegrain.config import params  # noqa: E402
from finegrain.config.training import AugmentParams  # noqa: E402
from finegrain.core import file_io  # noqa: E402
from finegrain.dataset import assignment, inspection, manifest, pack_writer  # noqa: E402
from finegrain.loading import batches  # noqa: E402
from finegrain.models import build, inference  # noqa: E402
from finegrain.runtime import devices  # noqa: E402
from finegrain.runtime.distributed import SINGLE_PROCESS  # noqa: E402
from finegrain.sample import drawings  # noqa: E402
from finegrain.sources import archive  # noqa: E402
from finegrain.training import loop  # noqa: E402
from finegrain.training.history import TrainingHistory  # noqa: E402
from finegrain.training.train_step import TrainingSetup  # noqa: E402

Splits = tuple[Any, Any]
"""Train and val: each a ``batches.PackedSplit``, or an object that yields batches in the same way."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    parser.add_argument("--epochs", type=int, help="instead of the sample's own number")
    parser.add_argument("--out", type=Path, default=ROOT / ".accuracy", help="folder for the results")
    args = parser.parse_args()
    config = params.load_params(ROOT / "params.yaml")
    if args.epochs:
        phase = config.phases["all"].model_copy(update={"epochs": args.epochs})
        config = config.model_copy(update={"phases": {"all": phase}})
    with tempfile.TemporaryDirectory() as temporary:
        ways = prepare(config, Path(temporary))
        right = {name: [] for name in ways}
        for seed in args.seeds:
            for name, (splits, dtype) in ways.items():
                right[name].append(run(config, seed, args.model, splits, dtype))
                print(f"seed {seed}, {name}: {right[name][-1].mean():.2%}", file=sys.stderr, flush=True)
    text = table({name: np.array(runs, float) for name, runs in right.items()})
    file_io.write_text(args.out / "accuracy.md", text)
    print(text)


def prepare(config: params.Params, folder: Path) -> dict[str, tuple[Splits, torch.dtype]]:
    """Generate the sample, packed and as files; returns each way's splits and the dtype it is autocast to."""
    dataset = config.dataset
    assert isinstance(dataset, params.SampleDataset), "params.yaml is not the sample's"
    drawings.write_zip(folder, dataset.images_per_class, dataset.image_size, config.seed)
    table, pack = folder / "manifest.csv", folder / "pack"
    pack.mkdir()
    with archive.ArchiveReader(folder) as reader:
        result = assignment.assign_splits(inspection.inspect_images(reader), config.split, config.seed)
        file_io.write_csv(table, manifest.COLUMNS, result.rows())
        pack_writer.write_pack(reader, table, pack, config.pack)
        rows = {row.path: row for row in result.rows()}
        for image, data in reader.read():
            row = rows[image.path]
            file = folder / "files" / row.split / row.class_name / Path(image.path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    device = devices.select_device(config.device)
    normal = batches.normalization_mean_std(pack, config.normalization, None)
    ours = tuple(batches.PackedSplit(pack, name, device, *normal) for name in ("train", "val"))
    theirs = tuple(Files(folder / "files" / name, device, *normal) for name in ("train", "val"))
    assert torch.equal(ours[1].labels, theirs[1].labels), "the images are paired"
    return {
        "ours": (ours, devices.autocast_dtype("auto", device)),
        "ours in float32": (ours, torch.float32),
        "torchvision's loader": (theirs, devices.autocast_dtype("auto", device)),
    }


class Files:
    """Image files with torchvision's transforms and loader, yielding batches as ``PackedSplit`` does."""

    def __init__(self, folder: Path, device: torch.device, mean: list[float], std: list[float]) -> None:
        self.device, self._folder, self.world = device, folder, SINGLE_PROCESS
        self._normal = transform.normalization_factors(mean, std, device)
        self._files = datasets.ImageFolder(str(folder), loader=_read)
        self.labels = torch.tensor(self._files.targets)
        self.class_names = self._files.classes

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def train_batches(
        self,
        epoch: int | str,
        batch_size: int,
        image_size: int,
        config: AugmentParams,
        seed: int,
        first: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        crop = v2.RandomResizedCrop(image_size, config.crop_scale, config.crop_ratio, antialias=True)
        source = sampling.make_generator(seed, "files", epoch)
        return self._batches(v2.Compose([crop, v2.RandomHorizontalFlip()]), batch_size, source)

    def eval_batches(self, batch_size: int, image_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches(v2.Resize((image_size, image_size), antialias=True), batch_size, None)

    def _batches(
        self, load: Callable[[Tensor], Tensor], batch_size: int, shuffled: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self._files.transform = load
        loader = torch.utils.data.DataLoader(
            self._files, batch_size, shuffle=shuffled is not None, generator=shuffled, num_workers=2
        )
        for images, labels in loader:
            x = transform.normalize(images.to(self.device), self._normal)
            yield x.contiguous(memory_format=torch.channels_last), labels.to(self.device)


def _read(path: str) -> Tensor:
    return io.decode_image(io.read_file(path), mode=io.ImageReadMode.RGB)


class NoCheckpoints:
    """A checkpoint store that stores nothing: these runs are too short to be resumed."""

    def read(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def write(self, state: dict[str, Any]) -> None:
        pass


def run(config: params.Params, seed: int, name: str, splits: Splits, dtype: torch.dtype) -> np.ndarray:
    """Train; returns which validation images the best weights predict correctly, ``[images]`` bool."""
    train, val = splits
    net = build.build_model(name, len(train.class_names), "none", config.head, seed)
    net = net.to(train.device)
    setup, history = TrainingSetup(net, config, seed, train, dtype), TrainingHistory()  # type: ignore[arg-type]
    for _ in loop.fit(setup, val, NoCheckpoints(), history):  # type: ignore[arg-type]
        pass
    net.load_state_dict(history.weights)
    logits, labels = inference.predict_split(net, val, history.best["image_size"], dtype)
    return (logits.argmax(1) == labels).numpy()


def table(right: dict[str, np.ndarray]) -> str:
    """Markdown table with one row per way; ``right`` holds the correct predictions, ``[seeds, images]``."""
    lines = ["| | val top-1, each seed | mean [95 %] | ours - this [95 %] |", "|---|---|---:|---:|"]
    cells = shared.accuracy_cells(right, "ours")
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
