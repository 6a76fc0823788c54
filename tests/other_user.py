"""Run a function as another user of this machine; only root can."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable

import filelock  # noqa: F401 - loaded now, for the other user may not be able to read this Python's own files
import psutil  # noqa: F401

NAME = "nobody"


def as_nobody(function: Callable[[], object]) -> str:
    """What `function` returns, or the class and the words of the exception it raises, when `nobody` calls it.

    It runs in a fork of this process: the interpreter may lie in a folder of root's that `nobody` cannot enter.
    """
    user = pwd.getpwnam(NAME)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir("/")
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            told = str(function())
        except BaseException as error:  # a fork must never return into the test runner
            told = f"{type(error).__name__}: {error}"
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return told
