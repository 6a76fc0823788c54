"""Train every task that has no result yet, on this machine; start it on as many machines as there are.

    python populate_script.py                     # folders and loader processes as the settings say
    python populate_script.py 2 --dataset-dir /mnt/lab/datasets --model-save-dir /mnt/lab/models

Where the databases are is read from the environment (TRAINLOOM_DATABASE_URL, TRAINLOOM_MONGO_URL, …) or from
./trainloom.d, so a container runs it as it is. Exit codes: 0 nothing is left to do, 1 a task failed or a server went
away, 2 wrong usage, 78 the configuration cannot be used, 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.errors import PipelineError
from trainloom import TrainingResult, connect

FAILED = 1
INTERRUPTED = 130  # as a shell reports SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Populate once and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        with connect(create_home=False):
            return _populate(args)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train every task that has no result yet.")
    parser.add_argument("num_workers", nargs="?", type=int, help="loader processes per training (the setting's: 0)")
    parser.add_argument("--dataset-dir", metavar="DIR", help="where data files lie")
    parser.add_argument("--dataset-cache-dir", metavar="DIR", help="where data files are cached on this machine")
    parser.add_argument("--model-save-dir", metavar="DIR", help="where weights are written before they are uploaded")
    return parser


def _populate(args: argparse.Namespace) -> int:
    training_result = TrainingResult(
        dataset_dir=args.dataset_dir,
        dataset_cache_dir=args.dataset_cache_dir,
        model_save_dir=args.model_save_dir,
        num_workers=args.num_workers,
    )
    # One task that fails must not keep this machine from the others.
    outcome = training_result.populate(reserve_jobs=True, order="random", suppress_errors=True)
    print(f"trained {outcome['success_count']}, failed {len(outcome['error_list'])}")
    for key, message in outcome["error_list"]:
        print(f"{key['training_task_md5_hash'][:8]}: {message}", file=sys.stderr)
    return FAILED if outcome["error_list"] else 0


# Loader processes may import this file: only the process that was started trains.
if __name__ == "__main__":
    sys.exit(main())
