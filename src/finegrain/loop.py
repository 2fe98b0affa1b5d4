"""fit() and predict(): the only two loops over batches."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finegrain import model, optim, record
from finegrain.checkpoint import Keeper
from finegrain.errors import UserError
from finegrain.packed import Split
from finegrain.params import Params

Row = dict[str, Any]


class Best:
    """The weights of the best epoch so far by validation top-1; lower validation loss breaks ties."""

    def __init__(self) -> None:
        self.row: Row = {"val_top1": -1.0, "val_loss": math.inf}
        self.weights: dict[str, Tensor] = {}

    def offer(self, row: Row, net: nn.Module) -> None:
        """Take a copy on the CPU where the row beats the best so far."""
        if (row["val_top1"], -row["val_loss"]) > (self.row["val_top1"], -self.row["val_loss"]):
            self.row = row
            self.weights = {k: v.detach().to("cpu", copy=True) for k, v in net.state_dict().items()}


def fit(
    net: nn.Module, config: Params, train: Split, val: Split, keeper: Keeper, best: Best, bf16: bool
) -> Iterator[Row]:
    """Run every phase of the recipe on ``net`` in place; yield one row of history per epoch.

    A resumed run yields the rows of its checkpoint first, so that the caller always sees them all.

    Args:
        best: filled with the best epoch's weights.
        bf16: autocast to bfloat16.

    Raises:
        UserError: the mean loss of an epoch is not finite.
    """
    state = keeper.read()
    rows: list[Row] = list(state["rows"]) if state else []
    done, epoch, saved = len(rows), 0, time.monotonic()
    yield from list(rows)
    for name, phase in config.phases.items():
        model.set_part(net, phase.part)
        optimizer = optim.build(model.groups(net), phase, phase.lr or config.lr)
        steps = train.steps(config.batch_size)
        for phase_epoch in range(phase.epochs):
            epoch += 1
            if epoch <= done:
                if state and epoch == done:
                    _restore(state, net, optimizer, best)
                continue
            started = time.monotonic()
            model.train_mode(net, phase.part)
            seen = _train_epoch(net, optimizer, config, name, epoch, phase_epoch * steps, train, bf16)
            row: Row = {"epoch": epoch, "phase": name, "side_pixels": phase.side_pixels, **seen}
            row["train_seconds"] = time.monotonic() - started
            logits, labels = predict(net, val, config.batch_size, phase.side_pixels, bf16)
            row["val_loss"] = F.cross_entropy(logits, labels).item()
            row["val_top1"] = (logits.argmax(1) == labels).double().mean().item()
            row["seconds"] = time.monotonic() - started
            best.offer(row, net)
            rows.append(row)
            yield row
            if time.monotonic() - saved >= config.checkpoint_seconds:
                keeper.write(_state(rows, net, optimizer, best))
                saved = time.monotonic()


def _train_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Params,
    name: str,
    epoch: int,
    first_step: int,
    train: Split,
    bf16: bool,
) -> Row:
    """One pass over the training images.

    Args:
        name: of the phase.
        epoch: from 1, counted over all phases.
        first_step: the first batch's step within the phase.

    Raises:
        UserError: the mean loss is not finite.
    """
    phase, steps = config.phases[name], train.steps(config.batch_size)
    loss_sum = torch.zeros((), device=train.device)
    correct, images = torch.zeros((), device=train.device, dtype=torch.int64), 0
    batches = train.train_batches(epoch, config.batch_size, phase.side_pixels, config.augment, config.seed)
    bar = record.progress(batches, total=steps, label=f"epoch {epoch} ({name})", unit="step")
    for step, (x, y) in enumerate(bar, first_step):
        optim.set_rates(optimizer, phase, step, steps)
        with torch.autocast(train.device.type, torch.bfloat16, enabled=bf16):
            logits = net(x)
            loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(y)  # stays on the device: no wait per step
        correct += (logits.detach().argmax(1) == y).sum()
        images += len(y)
    mean, lr = loss_sum.item() / images, optimizer.param_groups[-1]["lr"]
    if not math.isfinite(mean):
        raise UserError(
            f"train loss is {mean} in phase {name}, epoch {epoch}, lr {lr:.3g}; lower lr in params.yaml"
        )
    return {"lr": lr, "train_loss": mean, "train_top1": correct.item() / images, "train_images": images}


@torch.inference_mode()
def predict(
    net: nn.Module, split: Split, batch_size: int, side: int, bf16: bool, label: str | None = None
) -> tuple[Tensor, Tensor]:
    """Logits ``[N, classes]`` float32 and labels ``[N]`` of a whole split, on the CPU, in its order."""
    net.eval()
    outputs = []
    batches = split.plain_batches(batch_size, side)
    if label:
        batches = record.progress(batches, total=-(-len(split) // batch_size), label=label, unit="batch")
    for images, _ in batches:
        with torch.autocast(split.device.type, torch.bfloat16, enabled=bf16):
            outputs.append(net(images).float())
    return torch.cat(outputs).cpu(), split.labels


def _state(rows: list[Row], net: nn.Module, optimizer: torch.optim.Optimizer, best: Best) -> dict[str, Any]:
    return {
        "rows": rows,
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": {"row": best.row, "weights": best.weights},
    }


def _restore(state: dict[str, Any], net: nn.Module, optimizer: torch.optim.Optimizer, best: Best) -> None:
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    # the best epoch too, or the first epoch after a resume would overwrite a better model
    best.row, best.weights = state["best"]["row"], state["best"]["weights"]
    record.say(f"resumed after epoch {len(state['rows'])}")
