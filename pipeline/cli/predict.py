"""`trainloom predict`: apply a trained model to a dataset, as a task with a row, or to a file of arrays."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, priority
from pipeline.cli.context import is_terminal, open_session, print_json
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.prediction_pass import Progress

TIERS = ("train", "validation", "test")
FILES = (".npy", ".npz", ".h5", ".hdf5")
STEP = 0.1  # of all examples, between two lines where no terminal is


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "predict",
        help="apply a trained model to a dataset or to a file of arrays",
        description="Apply a trained model to every example of a dataset, in its order. For a dataset configuration or "
        "a stored dataset that is a task with a row, made here once; a file of arrays is predicted at once, without "
        "a row.",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("result", nargs="?", metavar="RESULT", help="the key of a training task, or its beginning")
    model.add_argument("--best", metavar="METRIC", help="the best result by this metric, loss or test_score")
    model.add_argument("--newest", action="store_true", help="the result that was made last")
    parser.add_argument(
        *("--filter", "-f"),
        action="append",
        default=[],
        metavar="CONDITION",
        help="with --best and --newest: column=value or an SQL condition on results; may be repeated",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="DATA",
        help="a key of a dataset configuration, a key or NAME[@VERSION] of a stored dataset, or a file that ends in "
        f"{', '.join(FILES)}",
    )
    parser.add_argument("--tier", choices=TIERS, help="of a dataset configuration or a file that has tiers (test)")
    parser.add_argument(
        *("-o", "--output"), type=Path, metavar="OUT", help="write outputs and targets here: .h5, .npz or .csv"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--batch-size", type=at_least_one, metavar="N", help="examples at once (as in the training)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--queue", action="store_true", help="leave the task to a worker")
    how.add_argument("--wait", action="store_true", help="leave the task to a worker, and wait for it")
    parser.add_argument("--priority", type=priority, default=5, metavar="N", help="0 to 127, lower runs first (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_predict)


def _predict(args: argparse.Namespace) -> int:
    if args.filter and args.result is not None:
        raise ConfigurationError("--filter chooses among results; give it with --best or --newest, or leave it out")
    if args.queue and args.output is not None:
        raise ConfigurationError("with --queue there are no outputs to write yet; use --wait, or leave -o out")
    if args.output is not None:
        from pipeline.prediction_file import check_output

        check_output(args.output, force=args.force)
    if Path(args.dataset).suffix in FILES:
        return _predict_file(args)
    return _predict_task(args)


def _predict_task(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline import prediction_queue
        from schemas.prediction import Prediction
        from schemas.prediction_task import TASK, PredictionTask

        data = prediction_queue.data_named(args.dataset)
        training = prediction_queue.training_named(args.result, args.best, _where(args))
        if not (args.queue or args.wait):
            prediction_queue.check_trained(training)
        row = {TASK: training, **data, "batch_size": args.batch_size, "priority": args.priority}
        keys = PredictionTask().insert_tuples(row if args.tier is None else {**row, "tier": args.tier})
        if args.wait:
            prediction_queue.wait(keys[0], session.settings.poll_seconds)
        elif not args.queue:
            with _shown(args) as progress:
                prediction_queue.make_here(keys[0], progress)
        if args.output is not None:
            Prediction().save(keys[0], args.output, force=args.force)
        found = {**prediction_queue.summary(keys[0]), "new": bool(keys.new)}
    _print(found, args)
    return 0


def _predict_file(args: argparse.Namespace) -> int:
    if args.queue or args.wait:
        raise ConfigurationError("a file of arrays is predicted here; leave --queue and --wait out")
    with open_session(args):
        from pipeline import prediction_file, prediction_queue
        from pipeline.model_catalog import find_model
        from schemas.binding import services

        model = find_model(args.result or prediction_queue.training_named(None, args.best, _where(args)))
        predictions: Any = services("trainloom predict").predictions
        path = Path(args.dataset)
        with (
            _shown(args) as progress,
            predictions.file(model, path, args.tier or "test", args.batch_size, progress) as made,
        ):
            if args.output is not None:
                prediction_file.export(made.file, args.output, force=args.force)
        found = {
            "key": None,
            "training" if model.kind.value == "trained" else "stored_model": model.key,
            "model": model.model_class["name"] if model.model_class else None,
            "data": str(path),
            "count": made.passed.count,
            "shape": made.passed.shape,
            "score": made.passed.score,
            "metrics": {row["metric_name"]: row["metric_value"] for row in made.passed.metrics()},
            "seconds": made.seconds,
        }
    _print(found, args)
    return 0


def _where(args: argparse.Namespace) -> Any:
    from datajoint import AndList

    return AndList(args.filter) if args.filter else True


@contextmanager
def _shown(args: argparse.Namespace) -> Iterator[Progress | None]:
    """What shows how far a prediction is: a bar on a terminal, else a line now and then."""
    if args.json:
        yield None
        return
    if not is_terminal():
        yield _lines()
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task("predicting", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _lines() -> Progress:
    told = 0.0

    def tell(done: int, count: int) -> None:
        nonlocal told
        if done < count and done / count - told >= STEP:
            told = done / count
            print(f"{done} of {count} examples", flush=True)

    return tell


def _print(found: Mapping[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print_json({**found, "output": None if args.output is None else str(args.output)})
        return
    from pipeline.short_keys import shown

    data = " ".join(filter(None, (found["data"], found.get("tier"))))
    name = f"{shown(found['key'])}  {found['model']} on {data}" if found["key"] else f"{found['model']} on {data}"
    if found["count"] is None:
        there = "" if found["new"] else "; the task was there already"
        print(f"{name}: {found['state']}{there}")
        return
    metrics = "".join(f", {metric} {_number(value)}" for metric, value in found["metrics"].items())
    print(f"{name}: {found['count']} examples, outputs of shape {found['shape']}{metrics}, {found['seconds']:.3g} s")
    if found["key"] is None:
        print("There is no row of this prediction: data that are to have one are inserted or saved as a dataset first.")
        if args.output is None:
            print("The outputs were not kept: -o OUT.h5, OUT.npz or OUT.csv writes them.")
    if args.output is not None:
        print(f"written to {args.output}")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
