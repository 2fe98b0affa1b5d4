"""Fine-tune a pretrained ResNet-18 as another project documents it; time_to_accuracy.py runs this.

    python contenders.py fastai --photos FOLDER --weights FILE --image-size 224 --budget 300 --out fastai.json

Each run is a process of its own. It times a few of its own batches, chooses the largest number of epochs that
fits the budget, trains its schedule over them, validates after each epoch and keeps the epoch with the best
validation top-1. The clock runs from the start of the process; it stops for that timing and for test images.
"""

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import command_line
from throughput_others import MEAN, STD, timm_epoch, tutorial_epoch, tutorial_loader
from throughput_task import device

STARTED = time.monotonic()
WARM_BATCHES, TIMED_BATCHES = 2, 6


class Score:
    """The clock of a run, and its test accuracy at the epoch with the best validation top-1 so far.

    Args:
        budget: seconds from the start of the process.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.epochs: list[dict[str, float]] = []
        self._best, self._test, self._stopped = -1.0, (0, 1), 0.0

    def seconds(self) -> float:
        """Counted seconds since the start of the process."""
        return time.monotonic() - STARTED - self._stopped

    def uncounted(self, work: Callable[[], Any]) -> Any:
        """Result of ``work``, whose seconds do not count."""
        began = time.monotonic()
        result = work()
        self._stopped += time.monotonic() - began
        return result

    def epochs_that_fit(self, net: Any, train: Any, val: Any, criterion: Any) -> int:
        """Number of epochs, at least one, that the budget leaves room for."""
        train_batch = self.uncounted(lambda: seconds_per_batch(net, train, criterion))
        val_batch = self.uncounted(lambda: seconds_per_batch(net, val, None))
        return max(1, int((self.budget - self.seconds()) / (train_batch * len(train) + val_batch * len(val))))

    def epoch_ended(self, val_top1: float, net: Any, test: Iterable[Any]) -> None:
        """Record an epoch, and test the network if it is the best on validation so far."""
        seconds = self.seconds()
        if val_top1 > self._best:
            self._best, self._test = val_top1, self.uncounted(lambda: count_correct(net, test))
        correct, images = self._test
        row = {"seconds": seconds, "val_top1": val_top1, "test_correct": correct, "test_images": images}
        self.epochs.append(row)
        print(f"{seconds:.0f} s: val {val_top1:.1%}, test {correct / images:.1%}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--photos", type=Path, required=True, help="folder with train, val and test folders")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision's ResNet-18, .safetensors")
    parser.add_argument("--image-size", type=int, required=True, help="in pixels")
    parser.add_argument("--budget", type=float, required=True, help="seconds, with start and validation")
    parser.add_argument("--seed", type=int, default=0, help="seed of training")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    args = parser.parse_args(argv)
    import torch

    torch.manual_seed(args.seed)
    score = Score(args.budget)
    CONTENDERS[args.contender](args, score)
    args.out.write_text(json.dumps({"threads": torch.get_num_threads(), "epochs": score.epochs}))


def fastai(args: argparse.Namespace, score: Score) -> None:
    """fastai's ``vision_learner`` and ``fine_tune`` as in its vision tutorial, with its augmentation.

    One epoch for the new head, then the whole network; batches of 64, Adam, one cycle, float32 (its mixed
    precision is for CUDA).
    """
    from fastai.vision import all as fast
    from fastai.vision.learner import model_meta

    def arch(weights: Any = None, **_: Any) -> Any:
        return pretrained(args.weights)

    class Report(fast.Callback):
        order = 99  # after the recorder has this epoch's metrics

        def after_epoch(self) -> None:
            score.epoch_ended(float(self.learn.recorder.values[-1][-1]), self.learn.model, test)

    model_meta[arch] = model_meta[fast.models.resnet18]
    loaders = fast.ImageDataLoaders.from_folder(
        args.photos,
        valid="val",
        item_tfms=fast.Resize(args.image_size),
        batch_tfms=fast.aug_transforms(),
        seed=args.seed,
    )
    learner = fast.vision_learner(loaders, arch, metrics=fast.accuracy, cbs=Report())
    # only now do the loaders normalize: vision_learner adds that step to them
    test = loaders.test_dl(sorted((args.photos / "test").rglob("*.jpg")), with_labels=True)
    epochs = score.epochs_that_fit(learner.model, loaders.train, loaders.valid, learner.loss_func)
    with learner.no_bar():
        learner.fine_tune(max(1, epochs - 1))


def timm(args: argparse.Namespace, score: Score, lr_base: float = 0.1) -> None:
    """The defaults of timm's train.py: SGD with momentum, cosine, label smoothing 0.1.

    There is no warm-up, for want of epochs. ``lr_base`` is the learning rate for batches of 256 images.
    """
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    batch_size = 32

    def loader(split: str) -> Any:
        data = create_dataset("", root=str(args.photos), split=split, is_training=split == "train")
        return create_loader(
            data,
            input_size=(3, args.image_size, args.image_size),
            batch_size=batch_size,
            is_training=split == "train",
            mean=MEAN,
            std=STD,
            interpolation="random" if split == "train" else "bicubic",
            crop_pct=0.875,
            num_workers=4,
            pin_memory=False,
            device=device(),
        )

    train, val, test = (loader(split) for split in ("train", "val", "test"))
    net = pretrained(args.weights, classes=count_classes(args.photos))
    criterion = LabelSmoothingCrossEntropy(0.1)
    epochs = score.epochs_that_fit(net, train, val, criterion)
    optimizer = create_optimizer_v2(
        net, opt="sgd", lr=lr_base * batch_size / 256, weight_decay=2e-5, momentum=0.9
    )
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, min_lr=0.0, warmup_epochs=0)
    for epoch in range(epochs):
        timm_epoch(net, train, criterion, optimizer)
        scheduler.step(epoch + 1)
        score.epoch_ended(top1(net, val), net, test)


def timm_tenth(args: argparse.Namespace, score: Score) -> None:
    """The same with a tenth of the default learning rate, as timm's author advises for fine-tuning.

    Source: https://github.com/huggingface/pytorch-image-models/issues/25
    """
    timm(args, score, lr_base=0.01)


def tutorial(args: argparse.Namespace, score: Score) -> None:
    """PyTorch's transfer learning tutorial, on which the Stanford Cars SGD project is based.

    SGD 0.001 with momentum, batches of 4, the learning rate divided by 10 every 7 epochs; random crops in
    training, a center crop of an image enlarged by 256/224 otherwise; float32.
    """
    import torch

    train, val, test = (
        tutorial_loader(args.photos, split, args.image_size, batch_size=4)
        for split in ("train", "val", "test")
    )
    net = pretrained(args.weights, classes=count_classes(args.photos))
    criterion = torch.nn.CrossEntropyLoss()
    epochs = score.epochs_that_fit(net, train, val, criterion)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(epochs):
        tutorial_epoch(net, train, criterion, optimizer)
        scheduler.step()
        score.epoch_ended(top1(net, val), net, test)


CONTENDERS: dict[str, Callable[[argparse.Namespace, Score], None]] = {
    "fastai": fastai,
    "timm": timm,
    "timm-tenth": timm_tenth,
    "tutorial": tutorial,
}


def pretrained(weights: Path, classes: int | None = None) -> Any:
    """torchvision's ResNet-18 with the weights of the file, and a new head if ``classes`` is given."""
    import safetensors.torch
    import torchvision

    net = torchvision.models.resnet18()
    missing, unexpected = net.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    assert set(missing) <= {"fc.weight", "fc.bias"} and not unexpected, weights
    if classes is not None:
        net.fc = type(net.fc)(net.fc.in_features, classes)
    return net.to(device())


def count_classes(photos: Path) -> int:
    return sum(1 for _ in (photos / "train").iterdir())


def top1(net: Any, loader: Iterable[Any]) -> float:
    correct, images = count_correct(net, loader)
    return correct / images


def count_correct(net: Any, loader: Iterable[Any]) -> tuple[int, int]:
    """Number of images predicted correctly, and of images."""
    import torch

    net.eval()
    on, correct, total = device(), 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += int((net(images.to(on)).argmax(1) == labels.to(on)).sum())
            total += len(labels)
    return correct, total


def seconds_per_batch(net: Any, loader: Iterable[Any], criterion: Any) -> float:
    """Mean seconds of a batch, forward and, with a criterion, backward; the network is left as it was."""
    import torch

    state, on = copy.deepcopy(net.state_dict()), device()
    net.train(criterion is not None)
    began = time.monotonic()
    count = 0
    for images, labels in itertools.islice(loader, WARM_BATCHES + TIMED_BATCHES):
        with torch.set_grad_enabled(criterion is not None):
            logits = net(images.to(on))
            if criterion is not None:
                criterion(logits, labels.to(on)).backward()
        count += 1
        if count == WARM_BATCHES:
            began = time.monotonic()
    net.zero_grad(set_to_none=True)
    net.load_state_dict(state)
    return (time.monotonic() - began) / max(1, count - WARM_BATCHES)


if __name__ == "__main__":
    main()
