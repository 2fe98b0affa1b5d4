"""A graph is recorded once for each image size, where the recipe has enough steps, and changes no result.

CI has no GPU: there a recording is a stand-in that runs the same passes and puts the results where a CUDA
graph would, into the same memory every time.
"""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from params_file import PHASE, write_params
from torch import nn

from finegrain.config import params
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training import cuda_graph
from finegrain.training.train_step import PhaseContext, TrainingSetup, train_step


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def batch(n: int, size: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=source), torch.randint(5, (n,), generator=source)


def slow(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
    return loss, list(torch.autograd.grad(loss, list(net.parameters())))


def runner(net: nn.Module, planned=None, batch_size: int = 0, label_smoothing: float = 0.1):
    """Forward and backward pass of the network, replayed from a graph where that is planned."""
    graphed = cuda_graph.GraphedFunction(net, planned, batch_size)

    def forward_backward(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = net(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        net.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach(), logits.detach()

    return lambda images, targets: graphed(forward_backward, images, targets)


class Recording:
    """Like torch.cuda.CUDAGraph: ``replay`` runs again what ``torch.cuda.graph`` encloses."""

    made = 0

    def __init__(self) -> None:
        Recording.made += 1


@pytest.fixture
def stand_in(monkeypatch):
    Recording.made = 0
    stream = type(
        "Stream", (), {"__init__": lambda self, device: None, "wait_stream": lambda self, other: None}
    )
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda chosen: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda chosen, capture_error_mode: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    real = cuda_graph._CudaGraph.__init__

    def remember(self, function, net, images, targets):
        real(self, function, net, images, targets)
        kept = [gradient for _, gradient in self._gradients]

        def replay() -> None:
            assert all(p.grad is gradient for p, gradient in self._gradients)
            fresh = function(self._images, self._targets)
            for place, value in zip(self._outputs, fresh, strict=True):
                place.copy_(value)
            for place, (parameter, _) in zip(kept, self._gradients, strict=True):
                place.copy_(parameter.grad)
                parameter.grad = place

        self._graph.replay = replay

    monkeypatch.setattr(cuda_graph._CudaGraph, "__init__", remember)


def test_a_recording_changes_nothing(stand_in):
    """Batches of two sizes and odd last ones, with which a resumed run may begin: results and norm statistics
    are those without recordings.
    """
    plain, recorded = network(), network()
    with_graph = runner(recorded, lambda size: cuda_graph.MIN_STEPS, 4)
    without = runner(plain)
    sizes = [(3, 8), (4, 8), (4, 8), (3, 8), (4, 8), (4, 12), (2, 12), (4, 12)]
    for seed, (n, size) in enumerate(sizes):
        x, y = batch(n, size, seed)
        (loss, logits), (expected, expected_logits) = with_graph(x, y), without(x, y)
        assert torch.equal(loss, expected) and torch.equal(logits, expected_logits)
        for p, q in zip(recorded.parameters(), plain.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
        assert Recording.made == (seed > 0) + (size == 12)
    assert all(torch.equal(a, b) for a, b in zip(recorded.buffers(), plain.buffers(), strict=True))


def test_a_recorded_step_adds_up_the_parts_of_each_batch(stand_in, tmp_path):
    """With ``accumulate``, one graph holds all parts, and replaces the gradients of the step before."""
    phase = PHASE | {"accumulate": 2}
    config = params.load_params(write_params(tmp_path, phases={"all": phase}, batch_size=4))
    nets = network(), network()
    for net, device in zip(nets, ("cuda", "cpu"), strict=True):
        train = SimpleNamespace(
            device=torch.device(device), world=SINGLE_PROCESS, class_names=list("abcde"),
            steps_per_epoch=lambda batch_size: cuda_graph.MIN_STEPS,
        )  # fmt: skip
        context = PhaseContext(TrainingSetup(net, config, 0, train, torch.float32), "all")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for seed in range(3):
            train_step(context, optimizer, *batch(4, 32, seed))
    assert Recording.made == 1
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_a_recording_leaves_the_random_numbers_as_they_were(stand_in):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, 5))
    x, y = batch(4, 8)
    losses = []
    for planned in (None, lambda size: cuda_graph.MIN_STEPS):
        run = runner(net, planned, 4)
        torch.manual_seed(3)
        losses.append(run(x, y)[0].item())
    assert losses[0] == losses[1]


def test_short_plans_are_not_recorded(stand_in):
    plan = {8: cuda_graph.MIN_STEPS - 1, 12: cuda_graph.MIN_STEPS}
    run = runner(network(), plan.__getitem__, 4)
    run(*batch(4, 8))
    assert Recording.made == 0
    run(*batch(4, 12))
    assert Recording.made == 1


def test_what_cannot_be_recorded_runs_all_the_same(stand_in, monkeypatch, capsys):
    def refuse(self):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    monkeypatch.setattr(Recording, "__init__", refuse)
    net, other = network(), network()
    x, y = batch(4, 8)
    loss, _ = runner(net, lambda size: cuda_graph.MIN_STEPS, 4)(x, y)
    assert torch.equal(loss, slow(other, x, y)[0].detach())
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), other.buffers(), strict=True))
    assert "no CUDA graph (CUDA out of memory.)" in capsys.readouterr().err
