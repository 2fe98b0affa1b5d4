"""The peak learning rate of a phase: from params.yaml, or from an LR range test."""

import itertools

import torch

from finegrain.augmentation import sampling
from finegrain.core import log
from finegrain.training import lr_finder
from finegrain.training.history import TrainingHistory
from finegrain.training.lr_finder import LRPoint
from finegrain.training.train_step import PhaseContext, train_step


def choose_lr(context: PhaseContext, history: TrainingHistory) -> float:
    """The phase's peak learning rate; runs the LR range test where the recipe wants one.

    Raises:
        UserError: ``lr: auto``, and the test suggests none.
    """
    config = context.setup.config
    lr = context.phase.lr or config.lr
    if lr != "auto" and not context.phase.lr_range_test:
        return lr
    points = run_lr_range_test(context)
    history.lr_range_tests[context.name] = points
    if lr != "auto":
        return lr
    suggested = lr_finder.suggest(points, config.lr_range_test.suggestion)
    log.info(f"{context.name}: lr {suggested:.3g} from the LR range test")
    return suggested


def run_lr_range_test(context: PhaseContext) -> list[LRPoint]:
    """Train at growing learning rates with the phase's optimizer, then restore the network."""
    setup, world = context.setup, context.setup.train.world
    before = {name: value.clone() for name, value in setup.net.state_dict().items()}
    context = PhaseContext(setup, context.name)  # without the moving average
    optimizer = context.build_optimizer(1.0)
    context.set_train_mode()
    image_size = context.phase.image_size_at(0)
    batches = itertools.chain.from_iterable(
        context.batches(f"range test {pass_}", image_size) for pass_ in itertools.count()
    )
    steps = setup.config.lr_range_test.steps
    bar = log.progress_bar(None, total=steps, label=f"LR range test ({context.name})", unit="step")

    def step(lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["peak_lr"]  # the multiplier of the group, for a peak of 1
        torch.manual_seed(sampling.derive_seed(setup.seed, "range test", bar.n, *world.rng_key))
        loss, _ = train_step(context, optimizer, *next(batches))
        world.all_reduce(loss)
        loss /= world.size
        bar.update()
        return loss.item()  # waits for the device: the test must know when to stop

    with bar:
        points = lr_finder.run_sweep(step, setup.config.lr_range_test)
    setup.net.load_state_dict(before)
    setup.net.zero_grad(set_to_none=True)
    return points
