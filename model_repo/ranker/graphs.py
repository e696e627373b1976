"""CUDA graphs: on a GPU, launching some eighty small kernels takes longer than running them."""

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
WARM_UP = 3  # runs before a capture: libraries allocate at their first calls


class Graphs:
    """
    *function*, captured once for each size of batch and replayed from then on.

    Inputs are ``(B, T)`` with one T for ever; a batch is filled up to a power of two, so that a
    handful of graphs serves every size. One thread at a time may call it.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._captured: dict[
            int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]
        ] = {}

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the function gives for *inputs*, in memory that the next call overwrites."""
        batch = len(inputs[0])
        size = 1 << (batch - 1).bit_length()
        if size not in self._captured:
            self._captured[size] = self._capture(size, inputs)
        graph, held, outputs = self._captured[size]
        for place, given in zip(held, inputs, strict=True):
            place[:batch].copy_(given)  # rows beyond it keep older requests' tokens: cut off below
        graph.replay()
        return tuple(output[:batch] for output in outputs)

    def _capture(
        self, size: int, like: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]:
        held = tuple(
            torch.zeros(size, *one.shape[1:], dtype=one.dtype, device="cuda") for one in like
        )
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._function(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(held)
        return graph, held, outputs
