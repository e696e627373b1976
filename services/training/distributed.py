"""
Data parallelism: each batch is shared out among the processes that `torchrun` started.

The gradient of the whole batch is the sum of theirs, so a run is the same, up to rounding and the
draws of dropout and negatives, whatever their number.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import nn

WORLD_SIZE = "WORLD_SIZE"  # torchrun sets it, and reads of rank and address are torch's own


def launch(processes: int, arguments: list[str]) -> NoReturn:
    """Become ``torchrun``, with so many processes of ``headrace *arguments``."""
    scripts = Path(sys.executable).parent
    command = [str(scripts / "torchrun"), "--standalone", "--nproc-per-node", str(processes)]
    command += ["--no-python", str(scripts / "headrace"), *arguments]
    os.execv(command[0], command)  # noqa: S606  # our own arguments


def is_launched() -> bool:
    """Whether torchrun started this process, beside others."""
    return int(os.environ.get(WORLD_SIZE, "1")) > 1


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Meet the other processes, if there are any: over NCCL on GPUs, gloo on CPUs."""
    if not is_launched():
        yield
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if size() > 1:
        dist.barrier()


def share_weights(network: nn.Module) -> None:
    """Give every process the first one's weights."""
    if size() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)


def add_gradients(network: nn.Module) -> None:
    """Give every process the sum of all gradients, in one message."""
    if size() == 1:
        return
    parameters = [one for one in network.parameters() if one.requires_grad]
    for one in parameters:
        if one.grad is None:  # a process whose share of the batch was empty
            one.grad = torch.zeros_like(one)
    flat = torch.cat([one.grad.flatten() for one in parameters if one.grad is not None])
    dist.all_reduce(flat)
    at = 0
    for one in parameters:
        one.grad = flat[at : at + one.numel()].view_as(one).clone()
        at += one.numel()


def total(value: float) -> float:
    """The sum of *value* over all processes."""
    if size() == 1:
        return value
    summed = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        summed = summed.cuda()
    dist.all_reduce(summed)
    return float(summed)
