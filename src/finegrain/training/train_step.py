"""The forward and backward pass of a training step; on a GPU replayed from a CUDA graph where that pays."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finegrain.config.training import AugmentParams
from finegrain.core import log

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images ``[N, 3, H, W]`` and class ids ``[N]`` to blended images and probabilities ``[N, classes]``."""


def mixup_or_cutmix(config: AugmentParams, classes: int) -> Mix | None:
    """MixUp, CutMix, or for each batch one of the two, as torchvision has them; None if both are off.

    They draw from torch's global generator, which is seeded at every step.
    """
    alphas = {"MixUp": config.mixup_alpha, "CutMix": config.cutmix_alpha}
    if not any(alphas.values()):
        return None
    from torchvision.transforms import v2  # slow to import, and few recipes mix

    kinds = [getattr(v2, kind)(alpha=alpha, num_classes=classes) for kind, alpha in alphas.items() if alpha]
    mix: Mix = v2.RandomChoice(kinds)
    return mix


MIN_GRAPH_STEPS = 300
"""Recording is four passes and a second set of activations: too much for a run of few steps."""

ForwardBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class StepRunner:
    """Call it with images and targets: returns loss and logits, and leaves gradients in ``.grad``.

    A GPU finishes a small batch sooner than Python starts its several hundred kernels. A CUDA graph starts
    them at once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). It holds for one shape:
    other batches, such as an epoch's last one, run kernel by kernel. Loss and logits are valid until the
    next call.
    """

    def __init__(
        self,
        net: nn.Module,
        bf16: bool,
        label_smoothing: float,
        planned: Callable[[int], int] | None,
        batch_size: int = 0,
    ) -> None:
        """What a step needs.

        Args:
            planned: how many steps the plan has for images of so many pixels. By the plan rather than the
                clock, so that a resumed run does as the unbroken one did. None: never record.
            batch_size: images of a whole batch, the shape that is recorded; a resumed run may begin with an
                epoch's last one.
        """
        self._net, self._bf16, self._label_smoothing = net, bf16, label_smoothing
        self._planned, self._batch_size = planned, batch_size
        self._side, self._due = 0, False
        self._graph: _CudaGraph | None = None

    def __call__(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """One forward and backward pass.

        Args:
            images: ``[N, 3, side, side]``.
            target: class ids ``[N]``, or probabilities ``[N, classes]``.

        Returns:
            Loss, a scalar, and logits ``[N, classes]``, detached and on the device.
        """
        if self._planned and images.shape[3] != self._side:
            self._side = images.shape[3]
            self._graph = None  # frees its memory before the next one takes some
            self._due = self._planned(self._side) >= MIN_GRAPH_STEPS
        if self._due and len(images) == self._batch_size:
            self._due = False
            self._graph = self._record(images, target)
        if self._graph and self._graph.fits(images, target):
            return self._graph.replay(images, target)
        return self._kernel_by_kernel(images, target)

    def _record(self, images: Tensor, target: Tensor) -> "_CudaGraph | None":
        try:
            return _CudaGraph(self._kernel_by_kernel, self._net, images, target)
        except RuntimeError as error:  # memory for two is lacking, or an operator cannot be recorded
            log.info(f"no CUDA graph ({str(error).splitlines()[0]}): kernels are started one by one")
        torch.cuda.empty_cache()  # only now has the error let go of what was recorded
        return None

    def _kernel_by_kernel(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self._net(images)
            loss = F.cross_entropy(logits, target, label_smoothing=self._label_smoothing)
        self._net.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach(), logits.detach()


class _CudaGraph:
    """One recording of ``run``; the network is as it was before."""

    WARM_UP = 3
    """Runs before the recording: kernels are chosen, workspaces are made (torch's own advice)."""

    def __init__(self, run: ForwardBackward, net: nn.Module, images: Tensor, target: Tensor) -> None:
        self._images, self._target = images.clone(), target.clone()
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        random = torch.cuda.get_rng_state(images.device)
        try:
            side = torch.cuda.Stream(images.device)
            side.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UP):
                    run(self._images, self._target)
            torch.cuda.current_stream(images.device).wait_stream(side)
            net.zero_grad(set_to_none=True)  # the recorded pass makes them anew, in memory of its own
            self._graph: Any = torch.cuda.CUDAGraph()
            # the thread that fetches the next batch may wait for its copies meanwhile
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = run(self._images, self._target)
        finally:
            for name, value in net.named_buffers():
                value.copy_(buffers[name])
            torch.cuda.set_rng_state(random, images.device)
        self._gradients = [(p, p.grad) for p in net.parameters() if p.grad is not None]

    def fits(self, images: Tensor, target: Tensor) -> bool:
        return images.shape == self._images.shape and target.shape == self._target.shape

    def replay(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        self._images.copy_(images)
        self._target.copy_(target)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient  # a batch of another shape has put its own there
        self._graph.replay()
        return self._outputs
