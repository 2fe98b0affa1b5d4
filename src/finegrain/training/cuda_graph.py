"""Forward and backward passes replayed from a CUDA graph, where that is faster than starting every kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.core import log

MIN_STEPS = 300
"""Recording takes four passes and a second set of activations: too much for fewer steps."""

ForwardBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and targets to loss and logits; leaves gradients in ``.grad``."""


class GraphedFunction:
    """Calls a forward and backward pass, or replays the CUDA graph that it recorded of it.

    A GPU finishes a small batch sooner than Python starts its several hundred kernels. A CUDA graph starts
    them at once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). It holds for one shape:
    other batches, such as the last one of an epoch, run kernel by kernel.
    """

    def __init__(self, net: nn.Module, planned_steps: Callable[[int], int] | None, batch_size: int) -> None:
        """Prepare; nothing is recorded yet.

        Args:
            planned_steps: number of steps that the recipe has at an image size in pixels, by which it is
                decided whether to record. The recipe decides, not a measurement, so that a resumed run does
                what the uninterrupted one did. None means never to record.
            batch_size: images of a full batch, the shape to record; a resumed run may begin with the last
                batch of an epoch.
        """
        self._net, self._planned_steps, self._batch_size = net, planned_steps, batch_size
        self._image_size, self._record_next = 0, False
        self._graph: _CudaGraph | None = None

    def __call__(self, function: ForwardBackward, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute loss and logits, and the gradients.

        Args:
            function: must be the same pass in every call.
            images: ``[N, 3, image_size, image_size]``.
            targets: class ids ``[N]``, or probabilities ``[N, classes]``.

        Returns:
            What ``function`` returns; valid until the next call.
        """
        if self._planned_steps and images.shape[3] != self._image_size:
            self._image_size = images.shape[3]
            self._graph = None  # frees its memory before the next one takes some
            self._record_next = self._planned_steps(self._image_size) >= MIN_STEPS
        if self._record_next and len(images) == self._batch_size:
            self._record_next = False
            self._graph = self._record(function, images, targets)
        if self._graph and self._graph.fits(images, targets):
            return self._graph.replay(images, targets)
        return function(images, targets)

    def _record(self, function: ForwardBackward, images: Tensor, targets: Tensor) -> "_CudaGraph | None":
        try:
            return _CudaGraph(function, self._net, images, targets)
        except RuntimeError as error:  # no memory for two, or an operator that cannot be recorded
            log.info(f"no CUDA graph ({str(error).splitlines()[0]}): kernels are started one by one")
        torch.cuda.empty_cache()  # the error held on to what was recorded until now
        return None


class _CudaGraph:
    """One recording of a function; the network's buffers and the random state are as they were before."""

    WARM_UP = 3
    """Calls before the recording, so that kernels are chosen and workspaces made (torch's own advice)."""

    def __init__(self, function: ForwardBackward, net: nn.Module, images: Tensor, targets: Tensor) -> None:
        self._images, self._targets = images.clone(), targets.clone()
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        rng_state = torch.cuda.get_rng_state(images.device)
        try:
            stream = torch.cuda.Stream(images.device)
            stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(stream):
                for _ in range(self.WARM_UP):
                    function(self._images, self._targets)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            net.zero_grad(set_to_none=True)  # the recorded pass allocates them in memory of its own
            self._graph: Any = torch.cuda.CUDAGraph()
            # the thread that fetches the next batch may wait for its copies meanwhile
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = function(self._images, self._targets)
        finally:
            for name, value in net.named_buffers():
                value.copy_(buffers[name])
            torch.cuda.set_rng_state(rng_state, images.device)
        self._gradients = [(p, p.grad) for p in net.parameters() if p.grad is not None]

    def fits(self, images: Tensor, targets: Tensor) -> bool:
        return images.shape == self._images.shape and targets.shape == self._targets.shape

    def replay(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self._images.copy_(images)
        self._targets.copy_(targets)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient  # a batch of another shape has set its own
        self._graph.replay()
        return self._outputs
