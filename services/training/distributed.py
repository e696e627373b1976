"""
Data parallelism: each batch is shared out among the processes that `torchrun` started.

The gradient of the whole batch is the sum of theirs, so a run is the same, up to rounding and the
draws of dropout and negatives, whatever their number. PyTorch takes seconds to import, so whoever
only asks whether it is alone does not.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch import nn

WORLD_SIZE = "WORLD_SIZE"  # torchrun sets it


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
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The first process reads the log while the others wait, and that may take hours.
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=12))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 writes and speaks."""
    return int(os.environ["RANK"]) if is_launched() else 0


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if is_launched():
        import torch.distributed as dist

        dist.barrier()


def share_weights(network: "nn.Module") -> None:
    """Give every process the first one's weights."""
    if is_launched():
        import torch.distributed as dist

        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)


def add_gradients(network: "nn.Module") -> None:
    """Give every process the sum of all gradients, in one message."""
    if not is_launched():
        return
    import torch
    import torch.distributed as dist

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
    if not is_launched():
        return value
    import torch
    import torch.distributed as dist

    summed = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        summed = summed.cuda()
    dist.all_reduce(summed)
    return float(summed)
