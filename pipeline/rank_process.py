"""The life of one rank: a process that trains its share of every batch of a task, with others like it.

It is started by torch's elastic launcher, whose environment variables say which rank it is. It has no connection to the
database nor to the store: what its trainer needs of them, the worker does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from contextlib import ExitStack, suppress
from typing import Any

import torch

from datasets_impl import mongo_access
from schemas.attempt import Blame
from trainers import numerics, process_group
from trainers.contract import Stopped

from .gpu_visible import VISIBLE
from .rank_channel import RankChannel
from .rank_recipe import Recipe, Start
from .resolver import ClassResolver
from .retry import blame_for
from .settings import PREFIX, Settings
from .trainer_parts import arguments_of, loaders_of, named_by
from .training_spec import read_spec

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
FAILED = 1
LINGER = 20.0  # s that a rank waits for its end that has lost another: the other one's failure is the one to be told
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
RECORDED = (
    "training_epoch_loss_history",
    "validation_epoch_loss_history",
    "regularization_loss_history",
    "validation_metric_history",
    "validation_points",
    "validated_steps",
    "model_class_params_history_dict",
    "choices",
    "best_epoch",
    "epochs_done",
    "test_score",
    "test_metrics",
    "metric_directions",
    "parameter_count",
    "model_save_path",
)
"""What the first rank hands over of its trainer, as JSON holds it."""


def run(start: Start) -> None:
    """Train; what each process is started with. Whatever goes wrong is told to the worker."""
    _settle_in(start)
    rank = int(os.environ["RANK"])
    for number, connection in start.channels.items():
        if number != rank:
            connection.close()
    channel = RankChannel(start.channels[rank])
    try:
        channel.ask("here", pid=os.getpid())
        with ExitStack() as resources:
            try:
                _train(start.recipe, rank, channel, resources)
            except Stopped as stopped:
                channel.tell("stopped", message=str(stopped))
        process_group.leave()
    except Exception as error:
        lost = _lost_another(error)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        with suppress(OSError):  # nobody listens to what has no consequence
            channel.tell("failed", message=said, lacks=blame_for(error) is Blame.WORKER, lost=lost)
        time.sleep(LINGER if lost else 0.0)
        os._exit(FAILED)  # taking leave of the others may wait for one that has gone


def _settle_in(start: Start) -> None:
    """Belong to the worker alone: its end is this one's, and what a terminal or a job step sends to all is not."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.worker:  # it has ended before
        raise SystemExit(FAILED)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    for name in [name for name in os.environ if name.startswith(PREFIX) or name in Settings.aliases]:
        del os.environ[name]  # addresses and passwords that are the worker's
    if start.group_round is not None:
        os.environ[process_group.ROUND] = start.group_round
    else:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all ranks are here, whatever this machine calls itself


def _train(recipe: Recipe, rank: int, channel: RankChannel, resources: ExitStack) -> None:
    if recipe.gpus:
        os.environ[VISIBLE] = recipe.gpus[rank]
    device = torch.device("cuda", 0) if recipe.gpus else torch.device("cpu")
    numerics.pin(recipe.numerics)
    if rank == 0:
        logging.getLogger("trainloom").handlers[:] = [_Told(channel)]
    mongo_access.lend(recipe.mongo, "the worker lent none")
    training = read_spec(recipe.rows, ClassResolver(recipe.allowed_packages, recipe.code_dir))
    loaders = loaders_of(training, recipe.data_directory, recipe.num_workers, resources)
    offered: dict[str, Any] = {"seed": training.seed}
    offered.update(recipe.start)
    if rank == 0:
        offered.update(dict.fromkeys(recipe.offered, channel))
    torch.manual_seed(training.seed)  # as in a worker, for classes that know nothing of seeds
    trainer = training.trainer.cls(
        **arguments_of(training, loaders, device, recipe.model_save_path),
        **{name: value for name, value in offered.items() if name in named_by(training)},
        **{**training.trainer.params, **recipe.run_params},
    )
    if rank == 0:
        channel.expects(len(loaders["train"]))
    trainer.train()
    if rank == 0:
        channel.tell("finished", **{name: getattr(trainer, name) for name in RECORDED if hasattr(trainer, name)})


def _lost_another(error: Exception) -> bool:
    """Whether an exception only says that another rank has ended."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in LOST)


class _Told(logging.Handler):
    """Hands log records on to the worker."""

    def __init__(self, channel: RankChannel) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the worker has gone, and this process ends as well
            self._channel.tell("log", level=record.levelno, message=record.getMessage())
