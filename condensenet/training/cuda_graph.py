"""Fewer kernel launches from Python, which would otherwise keep a GPU waiting.

A step of CondenseNet-86 on 64 images is about a thousand small kernels. Launching one from Python takes about 5 to 10
microseconds, longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP_CALLS = 3  # before the capture: libraries choose and load their kernels


class CudaGraphRunner:
    """Calls a function of tensors; if ``enabled``, its fourth call is captured as a CUDA graph and replayed thereafter.

    The function must launch the same kernels on the same memory in every call. Only its arguments, which are copied to
    static tensors, and tensors that are updated in place may change between calls; call ``reset`` before changing
    anything else. Every call runs exactly once, including the captured one, with the same kernels and values as a plain
    call. The result, and side effects such as gradients, are overwritten by the next call.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled  # possible on a GPU only
        self.reset()

    def reset(self) -> None:
        """Discard the graph: the next calls may launch other kernels."""
        self.static_arguments: list[Tensor] = []
        self.result: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """``function(*arguments)``; the function must stay the same until ``reset``."""
        if [static.shape for static in self.static_arguments] != [argument.shape for argument in arguments]:
            self.reset()
            self.static_arguments = [torch.empty_like(argument) for argument in arguments]
        for static, argument in zip(self.static_arguments, arguments, strict=True):
            static.copy_(argument)
        if self.enabled and self.graph is None and self.calls >= WARM_UP_CALLS:
            self.graph = self._capture(function)
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
        else:
            self.result = self._warm_up(function) if self.enabled else function(*self.static_arguments)
        assert self.result is not None
        return self.result

    def _capture(self, function: Callable[..., Tensor]) -> torch.cuda.CUDAGraph:
        """Capture without running. thread_local, because threads that load images or watch NCCL may use the GPU too."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.result = function(*self.static_arguments)
        return graph

    def _warm_up(self, function: Callable[..., Tensor]) -> Tensor:
        """Run on a side stream: on the default stream autograd would be bound to what cannot be captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function(*self.static_arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result


@contextmanager
def batches_counted_together(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Update the ``num_batches_tracked`` of all batch norms in ``modules`` with one kernel on exit, not one each.

    For a single forward pass in training mode. The counts, which only the state dict reads, come out the same.
    """
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d) and module.training]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, count in zip(norms, counts, strict=True):
            norm.num_batches_tracked = count
    if tracked := [count for count in counts if count is not None]:
        torch._foreach_add_(tracked, 1)
