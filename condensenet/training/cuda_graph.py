"""What spares a GPU the wait for its work to be launched, kernel by kernel, from Python.

A step of CondenseNet-86 on 64 images is about a thousand small kernels. Launching one takes Python some 5 to 10
microseconds, which is longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP = 3  # calls before a recording, in which libraries choose and load their kernels


class Replay:
    """Calls a function of tensors; if it ``records``, the fourth call as a CUDA graph, which it replays from then on.

    The function must launch the same kernels on the same memory in every call: all that changes from call to call lies
    in its arguments, which are copied to a place of their own, or in tensors that are written in place. Whoever changes
    anything else calls ``forget`` first. Every call does its work once, the recorded one too, and by the same kernels
    on the same values as a plain call. What it returns is overwritten by the next call; so is what it leaves behind,
    such as gradients.
    """

    def __init__(self, *, records: bool) -> None:
        self.records = records  # only a GPU can
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next call may launch other kernels."""
        self.arguments: list[Tensor] = []
        self.result: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """``function(*arguments)``; the same function until ``forget``."""
        if [own.shape for own in self.arguments] != [given.shape for given in arguments]:
            self.forget()
            self.arguments = [torch.empty_like(given) for given in arguments]
        for own, given in zip(self.arguments, arguments, strict=True):
            own.copy_(given)
        if self.records and self.graph is None and self.calls >= WARM_UP:
            self.graph = self._record(function)
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
        else:
            self.result = self._aside(function) if self.records else function(*self.arguments)
        assert self.result is not None
        return self.result

    def _record(self, function: Callable[..., Tensor]) -> torch.cuda.CUDAGraph:
        """Run nothing. Threads that load images or watch NCCL may use the GPU meanwhile, hence thread_local."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.result = function(*self.arguments)
        return graph

    def _aside(self, function: Callable[..., Tensor]) -> Tensor:
        """On a stream other than the default one, where autograd would be bound to what cannot be recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function(*self.arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result


@contextmanager
def counted_together(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within, the batch norms among ``modules`` do not count their batches, a launch each; at the end one call does.

    For one training pass of each. The counts, which nothing but the state dict reads, come out as ever.
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
    if kept := [count for count in counts if count is not None]:
        torch._foreach_add_(kept, 1)
