"""Training loops of other projects: PyTorch's tutorial, plain torchvision, timm and fastai.

contenders.py trains with the tutorial's loader and epoch, and with timm's epoch, too.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from throughput_task import Epoch, FirstStep, Task, auto_precision, device

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def tutorial(task: Task, after_step: FirstStep) -> Epoch:
    """PyTorch's transfer learning tutorial, on which the Stanford Cars SGD project is based.

    Pillow, transforms v1, four workers that are restarted every epoch, float32, a sync for the loss each
    step.
    """
    import torch
    import torchvision

    loader = tutorial_loader(task.photos, "train", task.image_size, task.batch_size)
    net = torchvision.models.get_model(task.model, num_classes=task.classes).to(device())
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    optimizer.register_step_post_hook(after_step)
    return lambda number: tutorial_epoch(net, loader, criterion, optimizer)


def tutorial_loader(photos: Path, split: str, image_size: int, batch_size: int) -> Any:
    """Random crops of the train photos; center crops of the others, enlarged by 256/224."""
    import torch
    from torchvision import datasets, transforms

    if split == "train":
        crop = [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip()]
    else:
        crop = [transforms.Resize(round(image_size * 256 / 224)), transforms.CenterCrop(image_size)]
    transform = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    data = datasets.ImageFolder(str(photos / split), transform)
    return torch.utils.data.DataLoader(data, batch_size, shuffle=split == "train", num_workers=4)


def tutorial_epoch(net: Any, loader: Iterable[Any], criterion: Any, optimizer: Any) -> int:
    """Train one epoch as the tutorial's ``train_model``; returns the number of images."""
    import torch

    on = device()
    net.train()
    images, running_loss, running_corrects = 0, 0.0, torch.zeros((), device=on)
    for inputs, labels in loader:
        inputs, labels = inputs.to(on), labels.to(on)
        optimizer.zero_grad()
        outputs = net(inputs)
        _, predicted = torch.max(outputs, 1)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_corrects += torch.sum(predicted == labels.data)
        images += len(labels)
    return images


def torchvision_v2(task: Task, after_step: FirstStep) -> Epoch:
    """The fastest way in plain torchvision: JPEG to uint8 tensors, v2 transforms, persistent workers."""
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2

    on = device()
    transform = v2.Compose([v2.RandomResizedCrop(task.image_size, antialias=True), v2.RandomHorizontalFlip()])
    data = datasets.ImageFolder(str(task.photos / "train"), transform, loader=read_jpeg)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=task.batch_size,
        shuffle=True,
        num_workers=task.workers,
        persistent_workers=True,
        pin_memory=on.type == "cuda",
    )
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def batches() -> Iterator[tuple[Any, Any]]:
        for images, labels in loader:  # uint8: a quarter of the bytes to copy from the workers
            images = images.to(on, non_blocking=True, memory_format=torch.channels_last)
            yield normalise(images), labels.to(on, non_blocking=True)

    return _fast_steps(task, batches, after_step)


def read_jpeg(path: str) -> Any:
    from torchvision import io

    return io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB)


def timm_loader(task: Task, after_step: FirstStep) -> Epoch:
    """timm's dataset, loader and default augmentation, with the model and step of ``torchvision_v2``."""
    import torch

    loader = _timm_batches(task)

    def batches() -> Iterator[tuple[Any, Any]]:
        for images, labels in loader:
            yield images.contiguous(memory_format=torch.channels_last), labels

    return _fast_steps(task, batches, after_step)


def timm_script(task: Task, after_step: FirstStep) -> Epoch:
    """timm's train.py without speed options: timm's loader, network and optimizer, float32."""
    import timm
    import timm.optim
    import torch

    loader = _timm_batches(task)
    net = timm.create_model(task.model, num_classes=task.classes).to(device())
    optimizer = timm.optim.create_optimizer_v2(net, opt="sgd", lr=0.001, momentum=0.9)
    optimizer.register_step_post_hook(after_step)
    criterion = torch.nn.CrossEntropyLoss()
    return lambda number: timm_epoch(net, loader, criterion, optimizer)


def timm_epoch(net: Any, loader: Iterable[Any], criterion: Any, optimizer: Any) -> int:
    """Train one epoch on the batches of timm's loader, on their device; returns the number of images."""
    net.train()
    images = 0
    for x, y in loader:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
        images += len(y)
    return images


def _timm_batches(task: Task) -> Any:
    from timm.data import create_dataset, create_loader

    on = device()
    return create_loader(
        create_dataset("", root=str(task.photos), split="train", is_training=True),
        input_size=(3, task.image_size, task.image_size),
        batch_size=task.batch_size,
        is_training=True,
        num_workers=task.workers,
        pin_memory=on.type == "cuda",
        device=on,
    )


def fastai_learner(task: Task, after_step: FirstStep) -> Epoch:
    """fastai's Learner as in its Imagenette tutorial, with its default workers, optimizer and head.

    Its mixed precision is for CUDA only; on a CPU it trains in float32. Validation is skipped.
    """
    from fastai.vision import all as fastai

    class Watch(fastai.Callback):
        images = 0

        def after_batch(self) -> None:
            self.images += len(self.learn.yb[0])
            after_step()

        def before_validate(self) -> None:
            raise fastai.CancelValidException

    loaders = fastai.ImageDataLoaders.from_folder(
        task.photos,
        valid="val",
        item_tfms=fastai.RandomResizedCrop(task.image_size),
        batch_tfms=fastai.Normalize.from_stats(*fastai.imagenet_stats),
        bs=task.batch_size,
    )
    watch = Watch()
    network = getattr(fastai.models, task.model)
    learner = fastai.vision_learner(loaders, network, pretrained=False, metrics=fastai.accuracy, cbs=watch)
    if device().type == "cuda":
        learner = learner.to_fp16()

    def epoch(number: int) -> int:
        before = watch.images
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, 0.001)
        return watch.images - before

    return epoch


def _fast_steps(task: Task, batches: Callable[[], Iterator[tuple[Any, Any]]], after_step: FirstStep) -> Epoch:
    """Fast step: channels_last, bfloat16 autocast if the hardware has it, fused SGD, no sync in a step."""
    import torch
    import torch.nn.functional as F
    import torchvision

    on = device()
    autocast = auto_precision(on) == "bf16"
    net = torchvision.models.get_model(task.model, num_classes=task.classes)
    net = net.to(on, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, fused=True)
    optimizer.register_step_post_hook(after_step)

    def epoch(number: int) -> int:
        net.train()
        images, loss_sum = 0, torch.zeros((), device=on)
        correct = torch.zeros((), device=on, dtype=torch.int64)
        for x, y in batches():
            with torch.autocast(on.type, torch.bfloat16, enabled=autocast):
                logits = net(x)
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (logits.detach().argmax(1) == y).sum()
            images += len(y)
        loss, top1 = loss_sum.item() / images, correct.item() / images
        print(f"loss {loss:.3f}, top-1 {top1:.1%}", file=sys.stderr)
        return images

    return epoch
