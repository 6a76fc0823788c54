"""Streaming pipelines, in threads and in processes: what goes wrong reaches the caller, and nothing stays behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from datasets_impl.streaming import (
    ParallelQueuedFeatureUnion,
    SequentialQueuedPipeline,
    StepError,
    StreamingError,
    WorkerLostError,
)
from tests.unit import streaming_steps as steps

ROOT = Path(__file__).parents[2]

both = pytest.mark.parametrize("use_processes", [False, True], ids=["threads", "processes"])


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No thread, process, file or shared memory of a pipeline outlives it."""
    resource_tracker.ensure_running()  # one for the whole test process: not a pipeline's
    threads, children, files, mapped = _present()
    yield
    gc.collect()
    left = _present()
    # What a test before left behind may end meanwhile.
    assert left[0] <= threads
    assert left[1] <= children
    assert left[2] <= files
    assert left[3] == mapped


def _present() -> tuple[set[str], int, int, int]:
    threads = {thread.name for thread in threading.enumerate()}
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").count("memfd:trainloom")
    return threads, len(multiprocessing.active_children()), len(os.listdir("/proc/self/fd")), mapped


def chain(failing: Any, use_processes: bool) -> SequentialQueuedPipeline:
    return SequentialQueuedPipeline([steps.unchanged, ("bad", failing)], 10, use_processes=use_processes)


@pytest.mark.feature("X5")
@both
@pytest.mark.parametrize("how", ["own", "broken pipe"])
def test_an_exception_of_a_step_arrives_as_its_own_type(use_processes: bool, how: str) -> None:
    type_ = {"own": steps.OwnError, "broken pipe": BrokenPipeError}[how]
    with pytest.raises(type_) as caught:
        chain(steps.Fail(how), use_processes).transform(range(200))
    cause = caught.value.__cause__
    assert isinstance(cause, StepError)
    assert (cause.step, cause.batch, cause.worker) == ("bad", 3, 0)
    assert "streaming_steps.py" in cause.traceback_text and "in _fail" in cause.traceback_text
    assert caught.value.__notes__[0].startswith("step 'bad' failed in minibatch 3 (worker 0): ")
    assert getattr(caught.value, "item", 35) == 35


@pytest.mark.feature("X5")
@both
@pytest.mark.parametrize("how", ["stop iteration", "exit"])
def test_what_would_end_the_caller_is_an_error_of_the_step(use_processes: bool, how: str) -> None:
    with pytest.raises(StepError, match="step 'bad' failed in minibatch 3") as caught:
        chain(steps.Fail(how), use_processes).transform(range(200))
    assert "in _fail" in caught.value.traceback_text


@pytest.mark.feature("X5")
def test_an_exception_that_cannot_be_rebuilt_is_told_with_its_text() -> None:
    with pytest.raises(StepError, match="step 'bad' failed in minibatch 3.*UnrebuildableError: item 35") as caught:
        chain(steps.Fail("unrebuildable"), True).transform(range(200))
    assert "in _fail" in caught.value.traceback_text
    with pytest.raises(steps.UnrebuildableError):
        chain(steps.Fail("unrebuildable"), False).transform(range(200))


@pytest.mark.feature("X5")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", r"worker 0 of step 'bad' was killed by SIGKILL in minibatch 3 \(as when memory runs out\)"),
        ("vanish", r"worker 0 of step 'bad' ended with exit code 3 in minibatch 3"),
        ("vanish quietly", r"worker 0 of step 'bad' ended with exit code 0 in minibatch 3"),
    ],
)
def test_a_worker_that_dies_is_noticed(how: str, message: str) -> None:
    pipeline = SequentialQueuedPipeline(
        [steps.unchanged, ("bad", steps.Fail(how)), (2, steps.unchanged)], 10, use_processes=True
    )
    with pytest.raises(WorkerLostError, match=message) as caught:
        pipeline.transform(range(2000))
    assert (caught.value.step, caught.value.batch) == ("bad", 3)


@pytest.mark.feature("X5")
def test_a_worker_killed_while_the_others_wait_for_it_is_noticed(tmp_path: Path) -> None:
    """The first step's queue and the packets before it are full, and so the caller waits to send."""
    large = [np.zeros(40_000) for _ in range(8)]
    pipeline = SequentialQueuedPipeline([("hold", 1, 3, steps.Hold(tmp_path))], 1, use_processes=True)
    results = pipeline.stream(large)
    killer = threading.Thread(target=_kill_when_it_holds, args=(tmp_path,))
    killer.start()
    with pytest.raises(WorkerLostError, match="'hold' was killed by SIGKILL in minibatch 0"):
        next(results)
    killer.join()


def _kill_when_it_holds(folder: Path) -> None:
    (process,) = _processes_that_hold(folder, 1)
    process.kill()


def _processes_that_hold(folder: Path, count: int) -> list[psutil.Process]:
    while len(names := os.listdir(folder)) < count:
        os.sched_yield()
    return [psutil.Process(int(name)) for name in names]


@pytest.mark.feature("X5")
@both
def test_the_error_of_one_branch_stops_all(use_processes: bool) -> None:
    union = ParallelQueuedFeatureUnion(
        [steps.unchanged, ("bad", 2, steps.Fail("own"))], 10, use_processes=use_processes
    )
    with pytest.raises(steps.OwnError):
        union.transform(range(10_000))


@pytest.mark.feature("X5")
@both
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (steps.without_odd, "step 'bad' returned 5 items for the 10 of minibatch 0: return one for each"),
        (steps.no_items, "step 'bad' returned NoneType for minibatch 0: return a list or an array"),
    ],
)
def test_another_number_of_items_is_an_error(use_processes: bool, step: Any, message: str) -> None:
    with pytest.raises(StreamingError, match=message) as caught:
        chain(step, use_processes).transform(range(40))
    assert isinstance(caught.value.__cause__, StepError)


@pytest.mark.feature("X5")
@pytest.mark.parametrize(
    ("step", "items", "message"),
    [
        (steps.unreadable, [1], "a result cannot be rebuilt in the caller's process .EOFError: not here"),
        (steps.unchanged, [lambda: None], "minibatch 0 cannot be sent to another process .* use threads"),
        (
            steps.unchanged,
            [steps.UnreadableResult()],
            "a minibatch cannot be rebuilt in the process of step .unchanged. .EOFError: not here",
        ),
    ],
)
def test_what_cannot_cross_between_processes_is_an_error(step: Any, items: list[Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        SequentialQueuedPipeline([step], 1, use_processes=True).transform(items)


@pytest.mark.feature("X5")
def test_results_that_cannot_be_pickled_are_an_error_of_the_step() -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        SequentialQueuedPipeline([steps.unpicklable], 1, use_processes=True).transform([1])
    assert isinstance(caught.value.__cause__, StepError)
    assert caught.value.__cause__.step == "unpicklable"


@pytest.mark.feature("X5")
@both
def test_an_exception_of_the_input_or_of_the_joiner_ends_the_workers(use_processes: bool) -> None:
    def failing_input() -> Iterator[int]:
        yield from range(25)
        raise steps.OwnError(25)

    def failing_joiner(branches: Any) -> Any:
        raise steps.OwnError(0)

    pipeline = SequentialQueuedPipeline([steps.double], 10, data_joiner=failing_joiner, use_processes=use_processes)
    with pytest.raises(steps.OwnError, match="0"):
        list(pipeline.stream(range(100)))
    with pytest.raises(steps.OwnError, match="25"):
        pipeline.transform(failing_input())


def _closed(results: Any) -> None:
    results.close()


def _dropped(results: Any) -> None:
    """The caller's reference goes with its frame."""


def _dropped_in_a_cycle(results: Any) -> None:
    cycle = [results]
    cycle.append(cycle)


@pytest.mark.feature("X5")
@both
@pytest.mark.parametrize("leave", [_closed, _dropped, _dropped_in_a_cycle])
def test_leaving_early_ends_all_workers(use_processes: bool, leave: Callable[[Any], None]) -> None:
    pipeline = SequentialQueuedPipeline([("a", 2, steps.unchanged), steps.in_place], 2, use_processes=use_processes)
    source = (np.zeros(10_000) for _ in range(1000))

    def leave_after_the_first() -> None:
        results = pipeline.stream(source)
        assert next(results).data_inputs[0][0] == 1
        leave(results)

    leave_after_the_first()


def _program(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    arguments = [sys.executable, "-W", "error", "-m", "tests.unit.streaming_program", str(folder)]
    program = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _processes_that_hold(folder, 2)
    return program, psutil.Process(program.pid).children(recursive=True)


@pytest.mark.feature("X5")
@pytest.mark.parametrize("whom", ["program", "terminal"])
def test_ctrl_c_ends_all_processes(tmp_path: Path, whom: str) -> None:
    program, children = _program(tmp_path)
    if whom == "terminal":
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.send_signal(signal.SIGINT)
    _, said = program.communicate()
    assert said.splitlines()[-1] == "KeyboardInterrupt" and said.count("Traceback") == 1
    assert psutil.wait_procs(children, timeout=60)[1] == []


@pytest.mark.feature("X5")
def test_ctrl_c_is_the_callers_to_handle() -> None:
    """A caller that handles it and goes on finds its workers working."""
    results = SequentialQueuedPipeline([steps.double], 1, use_processes=True).stream(range(60))
    next(results)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGINT)
    assert sum(1 for _ in results) == 59


@pytest.mark.feature("X5")
def test_a_killed_program_leaves_no_process_behind(tmp_path: Path) -> None:
    program, children = _program(tmp_path)
    program.kill()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert program.communicate()[1] == ""


@pytest.mark.feature("X5")
def test_a_script_that_forgets_to_say_that_it_is_the_main_program_is_told() -> None:
    arguments = [sys.executable, "-m", "tests.unit.unguarded_program"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "worker 0 of step 'unchanged' ended with exit code 1" in done.stderr.splitlines()[-1]
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]
