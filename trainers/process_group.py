"""The processes that train one model together, and what they tell each other.

They are started by torch's elastic launcher or by ``torchrun`` and find each other by the environment variables that it
sets. Each is called a rank; the first one, number 0, leads.
"""

from __future__ import annotations

import atexit
import io
import os
import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from trainers.contract import TrainerError

WORLD_SIZE, LOCAL_WORLD_SIZE, LOCAL_RANK = "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"  # as torchrun sets them
ROUND = "TRAINLOOM_GROUP_ROUND"
"""Where torchrun's processes train more than once, each training in processes of its own: what keeps the rendezvous of
one apart from that of the others, in the store that torchrun shares with what it starts."""
SETTLING = 0.1  # s in which the threads of a group drop what they hold


class ProcessGroup:
    """The ranks of a training, seen from one of them. One that trains alone is a group of its own.

    Every method but `wrap` is called by all ranks at the same place, and waits for them.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def leads(self) -> bool:
        """Whether this rank writes, reports and decides."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank: made of dicts, lists, tensors, numbers and strings. Tensors come to lie in
        main memory."""
        if self.size == 1:
            return [value]
        buffer = io.BytesIO()
        torch.save(value, buffer)
        content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        torch.distributed.all_gather(lengths, torch.tensor([len(content)]))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(content)] = content
        contents = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        torch.distributed.all_gather(contents, padded)
        return [
            torch.load(io.BytesIO(part[: int(length)].numpy().tobytes()), map_location="cpu", weights_only=True)
            for part, length in zip(contents, lengths, strict=True)
        ]

    def decide(self, *numbers: int) -> list[int]:
        """The numbers that the first rank gave; those of the others do not count."""
        if self.size == 1:
            return [*numbers]
        told = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.broadcast(told, src=0)
        return told.tolist()

    def hand_out(self, content: bytes | None) -> bytes | None:
        """What the first rank gave, in every rank; what the others gave does not count."""
        if self.size == 1:
            return content
        (length,) = self.decide(-1 if content is None else len(content))
        if length < 0:
            return None
        told = torch.empty(length, dtype=torch.uint8)
        if self.leads and content:
            told.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        torch.distributed.broadcast(told, src=0)
        return told.numpy().tobytes()

    def share_buffers(self, module: nn.Module) -> None:
        """Let every rank have the first one's buffers, such as the statistics of batch normalisation: each rank has
        made its own, and the first one's are kept."""
        if self.size > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def average_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Let every rank have the mean of all ranks' buffers; counters, which have no mean, stay as they are."""
        if self.size == 1:
            return
        for buffer in (buffer for module in modules for buffer in module.buffers()):
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """A module that calls the model and, while gradients are computed, makes them the mean over all ranks."""
        if self.size == 1:
            return model
        # Also where every parameter is used: otherwise torch rearranges the sums after a process's first step, and a
        # resumed training of more than two ranks would add the same gradients in another order.
        return DistributedDataParallel(model, find_unused_parameters=True)


ALONE = ProcessGroup()


def join(devices: int, device: torch.device | str) -> ProcessGroup:
    """The group of the ranks that train on so many devices; `ALONE` for one, and in a process that nobody started as a
    rank, which can still score what others have trained.

    Without a number, a GPU becomes that of this rank's place on its machine.

    Raises:
        TrainerError: there are more or fewer ranks than devices.
    """
    if devices == 1:
        return ALONE
    if not torch.distributed.is_initialized():
        if int(os.environ.get(WORLD_SIZE, "1")) == 1:
            return ALONE
        _initialise(torch.device(device))
    size = torch.distributed.get_world_size()
    if size != devices:
        raise TrainerError(
            f"devices is {devices}, but {size} processes were started to train together; start {devices}."
        )
    return ProcessGroup(torch.distributed.get_rank(), size)


def leave() -> None:
    """End this process's part in the group, if it has one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        # The group's threads live on as long as a wrapped model refers to it. One that has something left to drop asks
        # the interpreter for its lock, which aborts the process where the interpreter is ending: let it have it now.
        time.sleep(SETTLING)


def _initialise(device: torch.device) -> None:
    backend = "gloo"
    if device.type == "cuda":
        here, gpus = int(os.environ[LOCAL_RANK]), torch.cuda.device_count()
        if device.index is None:
            torch.cuda.set_device(here % gpus)
        # A rank that sees one GPU only was given it for itself.
        if gpus == 1 or int(os.environ[LOCAL_WORLD_SIZE]) <= gpus:
            backend = "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, **_rendezvous())
    atexit.register(leave)  # torch's own threads end the process with an error else


def _rendezvous() -> dict[str, Any]:
    """What says where the ranks meet; nothing where torch finds it in the environment by itself."""
    if ROUND not in os.environ:
        return {}
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(host, port, is_master=False, timeout=default_pg_timeout)
    return {
        "store": PrefixStore(os.environ[ROUND], shared),
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ[WORLD_SIZE]),
    }
