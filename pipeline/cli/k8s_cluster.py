"""What the commands that talk to a cluster share: which cluster, which workers, and the database beside them."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.cli.context import load_settings
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api import Api
    from pipeline.pod_tasks import Demand
    from pipeline.settings import Settings

T = TypeVar("T")


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which cluster."""
    parser.add_argument("--context", metavar="NAME", help="the kube-config context; the current one by default")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="the kube-config; $KUBECONFIG or ~/.kube/config by default"
    )


def add_workers_arguments(parser: argparse.ArgumentParser, *, group: bool = False) -> None:
    """The arguments that say which workers of which cluster."""
    parser.add_argument("--name", metavar="NAME", help="the name of the workers, where there are those of several")
    if group:
        parser.add_argument("--group", metavar="NAME", help="one of their groups, where there are several")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="the namespace; that of the context by default")
    parser.add_argument("--values", type=Path, metavar="FILE", help="the values file that says name and namespace")
    add_cluster_arguments(parser)


def open_api(args: argparse.Namespace, namespace: str | None = None) -> Api:
    """The API of the cluster that the arguments choose.

    Raises
    ------
    k8s.cluster.AccessError
        If there is none.
    """
    from k8s.api import Api
    from k8s.cluster import Cluster

    return Api(Cluster.load(kubeconfig=args.kubeconfig, context=args.context, namespace=args.namespace or namespace))


def open_workers(args: argparse.Namespace) -> tuple[Api, str | None]:
    """The API, and the name of the workers that are meant; None where the arguments do not say it.

    Raises
    ------
    k8s.errors.KubernetesError
        If there is no cluster, or the values file is wrong.
    """
    if args.values is None:
        return open_api(args), args.name
    from k8s.values import Values

    values = Values.load(args.values)
    return open_api(args, values.namespace), args.name or values.name


class Tasks:
    """What the database knows of the tasks; it is opened when it is first asked, and may be away or go away.

    Attributes
    ----------
    problem : why nothing is known now, empty where it is.
    """

    def __init__(self, args: argparse.Namespace, sessions: ExitStack) -> None:
        """`sessions` closes the session."""
        self._args = args
        self._sessions = sessions
        self._settings: Settings | None = None
        self.problem = ""

    def demand(self) -> Demand | None:
        """How many tasks there are for workers."""

        def ask(settings: Settings) -> Demand:
            from pipeline.pod_tasks import demand

            return demand(settings)

        return self._asked(ask)

    def held(self) -> list[dict[str, Any]] | None:
        """The tasks that somebody is at."""

        def ask(_: Settings) -> list[dict[str, Any]]:
            from pipeline.pod_tasks import held_tasks

            return held_tasks()

        return self._asked(ask)

    def counts(self) -> dict[str, dict[str, int]] | None:
        """Tasks of every kind that workers serve, by state."""

        def ask(settings: Settings) -> dict[str, dict[str, int]]:
            from pipeline.task_kind import served

            return {kind.name: kind.count() for kind in served(settings, None, None)}

        return self._asked(ask)

    def _asked(self, question: Callable[[Settings], T]) -> T | None:
        if self.problem and self._settings is None:
            return None  # to try to open it takes seconds each time
        try:
            if self._settings is None:
                self._settings = self._opened()
            answer = question(self._settings)
        except Exception as error:
            if not isinstance(error, PipelineError | OSError) and not _is_of_the_database(error):
                raise
            self.problem = " ".join(str(error).split())  # the cluster can be looked at all the same
            return None
        self.problem = ""
        return answer

    def _opened(self) -> Settings:
        """The settings, once a session with them is open."""
        settings = load_settings(self._args)
        if settings.database is None and Home.find() is None:  # said at once: a session takes seconds to load
            raise ConfigurationError("no database is set, and there is no home with one here or above")
        from pipeline.session import connect

        # A database that goes away is asked again at the next look, which the cluster is not to wait for.
        settings = settings.model_copy(update={"reconnect_seconds": 0.0})
        self._sessions.enter_context(connect(settings, create_home=False))
        return settings


def _is_of_the_database(error: Exception) -> bool:
    from datajoint.errors import DataJointError

    return isinstance(error, DataJointError)
