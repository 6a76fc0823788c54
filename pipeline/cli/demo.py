"""`trainloom demo`: real handwritten digits from the data file to a leaderboard."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.context import open_session, print_table
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.session import Session
    from schemas.keys import Keys


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "demo",
        help="train on handwritten digits and print a leaderboard",
        description="Train two models on real handwritten digits in two ways, with two seeds each, and print a "
        "leaderboard. Started again it goes on where it was and trains nothing twice.",
    )
    parser.set_defaults(action=_demo)


def _demo(args: argparse.Namespace) -> int:
    with open_session(args, create_home=True) as session:
        from pipeline import demo

        path = demo.pack(session)
        tasks = demo.insert()
        print(f"Data   the UCI handwritten digits, {path}")
        print(
            f"Tasks  {len(demo.MODELS)} models x {len(demo.TRAININGS)} trainings x {len(demo.SEEDS)} seeds "
            f"= {len(tasks)} ({len(tasks.new)} new)"
        )
        code = _train(session, tasks)
        _print_leaderboard(tasks)
        _print_places(session)
    return code


def _condition(tasks: Keys) -> str:
    """SQL that holds for the demonstration's own tasks: the project may have others."""
    return f"training_task_md5_hash in ({', '.join(repr(key['training_task_md5_hash']) for key in tasks)})"


def _train(session: Session, tasks: Keys) -> int:
    from pipeline import demo, gpu_locks, task_queue, task_states
    from pipeline.training_progress import train
    from pipeline.worker_pool import Assignment
    from schemas.training_task import TrainingTask

    task_queue.requeue_broken(key[task_states.TASK_KEY] for key in tasks)
    condition = _condition(tasks)
    finished = task_states.count(TrainingTask() & condition)[task_states.State.FINISHED]
    if finished == len(tasks):
        print(f"Nothing to train: all {finished} tasks were finished before.")
        return 0
    gpus = gpu_locks.available(session.settings.device)
    processes = min(demo.PROCESSES, len(gpus)) if gpus else demo.PROCESSES
    return train(session.settings, processes, Assignment(restriction=condition))


def _print_leaderboard(tasks: Keys) -> None:
    from pipeline import demo
    from pipeline.results import leaderboard
    from pipeline.short_keys import shown

    rows = leaderboard(demo.METRIC, restriction=_condition(tasks))
    if not rows:
        raise PipelineError("no task of the demonstration has been trained; `trainloom status` says why")
    print()
    print_table(
        ("task", "model", "training", "seed", f"test {demo.METRIC}", "parameters", "seconds"),
        [
            (
                shown(row["task"]),
                row["model"],
                row["training"],
                row["seed"],
                f"{row[demo.METRIC]:.4f}" if row[demo.METRIC] is not None else None,
                row["parameter_count"],
                round(row["duration"], 1),
            )
            for row in rows
        ],
    )
    print()
    best = rows[0]
    print(f"Best         {best['model']}, test {demo.METRIC} {best[demo.METRIC]:.4f}")
    print(f"             its weights are {best['model_save_path']}")
    print(f"             trainloom trace {shown(best['task'])}   shows everything it was made of")


def _print_places(session: Session) -> None:
    print(f"Models       all weights are in the store, {session.store.where}")
    if session.store_note:
        print(f"             {session.store_note}")
    if session.home is not None:
        print(f"Home         {session.home.path} holds data, servers and store")
    if activation := _activation():
        print(f"First        {activation}   brings the command trainloom into this shell")
    print("Next         trainloom results            all results; --help says how to sort and filter")
    print("             trainloom insert FILE        rows of your own, then: trainloom worker --processes 2")
    print("             notebooks/01_first_training.ipynb   the same from Python")
    print("             trainloom db stop            stops the database servers, which otherwise go on running")


def _activation() -> str | None:
    """What makes `trainloom` a command of the shell; None where it is one, as far as can be seen from here."""
    if sys.prefix == sys.base_prefix or shutil.which("trainloom"):
        return None
    return f"source {shlex.quote(str(Path(sys.prefix, 'bin', 'activate')))}"
