"""Logs of pods: of those there are, or followed through connections that break and pods that come and go."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Iterable, Iterator

from .api import NOT_FOUND, Api, ApiError, StreamBroken
from .errors import KubernetesError
from .job_state import job_state
from .pod import CONTAINER
from .pod_state import PENDING, PodState, pod_state
from .resource import JOB, POD
from .watched import Watched

NOT_STARTED = 400  # what the server says to who asks for the log of a container that waits
SILENCE = 90.0  # s without a line after which a connection is made anew, in case nobody is there any more
WAITING_LINES = 1000  # read ahead of who prints them
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # s before a log is asked for again
WORKER = {"container": CONTAINER}  # service meshes and patches put others beside it


def newest(pods: Iterable[PodState], *, before: bool = False) -> list[PodState]:
    """The newest pod of every index, or the one before it, by Job and index; of pods without an index all."""
    tries: dict[tuple[str, int, str], list[PodState]] = {}
    for pod in sorted(pods, key=lambda pod: pod.created):
        place = (pod.job, -1, pod.name) if pod.index is None else (pod.job, pod.index, "")
        tries.setdefault(place, []).append(pod)
    back = 2 if before else 1
    return [found[-back] for _, found in sorted(tries.items()) if len(found) >= back]


def read(api: Api, pod: str, *, tail: int | None = None, previous: bool = False) -> Iterator[str]:
    """The lines that a pod has written so far; `previous`: those of its container before it was restarted.

    Raises
    ------
    ApiError
        If there is no log, because the pod is gone or has not started.
    StreamBroken
        If the connection breaks.
    """
    query = {**WORKER, **_tail(tail), **({"previous": "true"} if previous else {})}
    for line in api.log(pod, query, answer_limit=SILENCE):
        yield line.decode(errors="replace")


def _tail(tail: int | None) -> dict[str, str]:
    return {} if tail is None else {"tailLines": str(tail)}


class LogStreams:
    """Follows the logs of the pods of some Jobs, also of those that come later, until the Jobs have ended; or that of
    one pod until it has."""

    def __init__(
        self, api: Api, labels: str, *, jobs: Collection[str], pod: str | None = None, tail: int | None = None
    ) -> None:
        """`labels` selects Jobs and pods, of which only those of `jobs` count, or `pod` alone; `tail`: how many lines
        that lie behind are shown of each pod that runs already, None for all."""
        self._api = api
        self._changed = threading.Event()
        self._jobs = Watched(api, JOB, labels=labels, changed=self._changed)
        self._pods = Watched(api, POD, labels=labels, changed=self._changed)
        self._names, self._pod = frozenset(jobs), pod
        self._tail: int | None = tail
        self._lines: queue.Queue[tuple[str, str] | KubernetesError] = queue.Queue(WAITING_LINES)
        self._streams: dict[str, threading.Thread] = {}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Pairs of a pod's name and a line that it has written; asked for once.

        Raises
        ------
        KubernetesError
            If the cluster can no longer be watched, or a log must not be read.
        """
        with self._jobs, self._pods:
            yield from self._followed()

    def _followed(self) -> Iterator[tuple[str, str]]:
        while True:
            self._changed.clear()
            self._begin_streams()
            if self._is_over():
                yield from self._waiting()
                return
            while not self._changed.is_set():
                try:
                    yield self._checked(self._lines.get(timeout=0.5))
                except queue.Empty:
                    if not any(stream.is_alive() for stream in self._streams.values()):
                        break  # perhaps all is over

    def _begin_streams(self) -> None:
        """A thread for every pod that has one to be followed; those that are there at the beginning are cut short."""
        for state in self._chosen():
            if state.name not in self._streams and state.phase != PENDING:
                arguments = (state.name, self._tail)
                stream = threading.Thread(target=self._follow, args=arguments, name=f"log {state.name}", daemon=True)
                self._streams[state.name] = stream
                stream.start()
        self._tail = None

    def _chosen(self) -> list[PodState]:
        """The pods whose logs are wanted, as they are now."""
        states = map(pod_state, self._pods.objects())
        return [
            state for state in states if (state.job in self._names if self._pod is None else state.name == self._pod)
        ]

    def _is_over(self) -> bool:
        """Whether nothing more can come: the streams have ended, and no other pod comes."""
        jobs = [job for job in map(job_state, self._jobs.objects()) if job.name in self._names]
        if self._pod is None and not all(job.has_ended for job in jobs):
            return False
        alive = any(stream.is_alive() for stream in self._streams.values())
        return not alive and all(state.is_over and state.name in self._streams for state in self._chosen())

    def _waiting(self) -> Iterator[tuple[str, str]]:
        while not self._lines.empty():
            yield self._checked(self._lines.get())

    @staticmethod
    def _checked(said: tuple[str, str] | KubernetesError) -> tuple[str, str]:
        if isinstance(said, KubernetesError):
            raise said
        return said

    def _follow(self, pod: str, tail: int | None) -> None:
        try:
            self._hand_on(pod, tail)
        except KubernetesError as error:
            self._lines.put(error)

    def _hand_on(self, pod: str, tail: int | None) -> None:
        """Hand on a pod's lines until it is over; what was handed on already is skipped after a break."""
        position = _Position()
        pause = FIRST_PAUSE
        while True:
            query = {**WORKER, "follow": "true", "timestamps": "true", **(position.query() or _tail(tail))}
            ended = False
            before = position.time
            try:
                for line in self._api.log(pod, query, answer_limit=SILENCE):
                    if (text := position.text_of(line.decode(errors="replace"))) is not None:
                        self._lines.put((pod, text))
                ended = True
            except StreamBroken:
                pass  # it goes on from the last whole line
            except ApiError as error:
                if error.status == NOT_FOUND or (error.status == NOT_STARTED and self._is_gone(pod)):
                    return
                if not error.is_transient and error.status != NOT_STARTED:
                    raise
            if ended and self._is_gone(pod):
                return
            pause = FIRST_PAUSE if position.time != before else min(LONGEST_PAUSE, 2 * pause)
            threading.Event().wait(pause)

    def _is_gone(self, pod: str) -> bool:
        """Whether a pod writes nothing more."""
        found = next((thing for thing in self._pods.objects() if thing["metadata"]["name"] == pod), None)
        return found is None or pod_state(found).is_over


class _Position:
    """The last line that was handed on, by the time that the server gives each line.

    Attributes
    ----------
    time : of the last line, empty before the first.
    """

    def __init__(self) -> None:
        self.time = ""
        self._at_that_time = 0  # lines of that very time that were handed on
        self._seen = 0  # of them, how many came again since the last break

    def query(self) -> dict[str, str]:
        """What asks for the lines from there on, the last ones once more."""
        self._seen = 0
        return {"sinceTime": self.time} if self.time else {}

    def text_of(self, line: str) -> str | None:
        """The text of a line with its time, None where it was handed on before."""
        time, _, text = line.partition(" ")
        if time < self.time:
            return None
        if time == self.time:
            self._seen += 1
            if self._seen <= self._at_that_time:
                return None
        else:
            self.time, self._at_that_time, self._seen = time, 0, 1
        self._at_that_time += 1
        return text
