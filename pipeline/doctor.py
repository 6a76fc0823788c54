"""Every part looked at before work starts: what is wrong, plainly, and its cure. Nothing is started or made."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr

from . import mounts, server_checks
from .errors import ConfigurationError, PipelineError
from .home import Home
from .resolver import DISTRIBUTION, ClassResolver, UnresolvedClass
from .services.process import FIRST_SPACE
from .settings import Settings

OUR_PACKAGES = ("trainloom", "pipeline", "schemas", "trainers", "datasets_impl", "models_impl", "k8s")
# Packages with compiled parts: that they are installed does not mean that they work.
COMPILED = ("numpy", "torch", "h5py", "psycopg2", "pymongo", "pandas", "matplotlib", "datajoint")
LITTLE_SPACE = 2 * 2**30  # bytes
MASK = "***"


class Status(StrEnum):
    """How a part is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """What was found of one part; `cure` says what to do, where `message` does not say it itself."""

    name: str
    status: Status
    message: str
    cure: str = ""

    @property
    def line(self) -> str:
        """The check on one line."""
        mark = "FAIL" if self.status is Status.FAIL else str(self.status)
        text = f"{self.message.rstrip('.')}; {self.cure}" if self.cure else self.message
        return f"{mark:<4}  {self.name:<9}  {' '.join(text.split())}"


ok = partial(Check, status=Status.OK)
warn = partial(Check, status=Status.WARN)
fail = partial(Check, status=Status.FAIL)


def diagnose(settings: Settings | None) -> list[Check]:
    """Everything that `checks` finds."""
    return list(checks(settings))


def checks(settings: Settings | None) -> Iterator[Check]:
    """Look at every part, one after the other; without settings only at those that need none. No message holds a secret."""
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("packages", partial(_packages, settings)),
        ("shadowing", partial(_shadowing, settings)),
        ("cpu", partial(_cpu, settings)),
        ("gpu", partial(_gpu, settings)),
    ]
    if settings is not None:
        parts += [
            ("own code", partial(_own_code, settings)),
            ("home", partial(_home, settings)),
            ("folders", partial(_folders, settings)),
            ("servers", partial(_servers, settings)),
        ]
    hidden = _secrets(settings) if settings is not None else []
    for name, part in parts:
        for check in _guarded(name, part):
            yield replace(check, message=_without(hidden, check.message), cure=_without(hidden, check.cure))


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """What a part says; a part that cannot even be looked at must not keep the others from being looked at."""
    try:
        yield from part()
    except PipelineError as error:
        yield fail(name=name, message=str(error))
    except Exception as error:
        yield fail(name=name, message=f"could not be looked at: {type(error).__name__}: {error}")


def _secrets(settings: Settings) -> list[str]:
    """Every text that no message may hold: passwords and addresses with passwords, the longest first."""
    found: set[str] = set()
    for _, value in settings:
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            # A password with an unescaped / or @ is no valid URL, and still a password: up to the last @.
            passwords = re.findall(r"://[^@/]*?:(.*)@", text)
            found |= {text, *passwords, *map(unquote, passwords)}
    return sorted(found - {""}, key=len, reverse=True)


def _without(hidden: list[str], text: str) -> str:
    for secret in hidden:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def _python() -> Iterator[Check]:
    yield ok(name="python", message=f"Python {platform.python_version()} at {sys.executable}")


def _packages(settings: Settings | None) -> Iterator[Check]:
    """Versions against what trainloom asks for; whether those with compiled parts can be imported."""
    extras = ["", *(["embedded"] if settings is None or settings.database is None else [])]
    if settings is not None and settings.database is not None and settings.database.backend == "mysql":
        extras.append("mysql")
    try:
        problems, cure = _unmet(extras)
    except metadata.PackageNotFoundError:
        yield fail(name="packages", message="trainloom is not installed", cure="run `pip install .` where its setup.cfg is")
        return
    broken = [f"{name} cannot be imported ({reason})" for name in COMPILED if (reason := _import_error(name))]
    if problems or broken:
        names = " ".join(repr(wanted) for wanted in cure) or " ".join(found.split()[0] for found in broken)
        yield fail(
            name="packages", message=", ".join([*problems, *broken]), cure=f"run `pip install --force-reinstall {names}`"
        )
    else:
        yield ok(name="packages", message=f"trainloom {metadata.version('trainloom')} and all that it needs, at wanted versions")


def _unmet(extras: list[str]) -> tuple[list[str], list[str]]:
    """Requirements of trainloom that are not fulfilled: as sentences, and as pip takes them."""
    from packaging.requirements import Requirement

    problems, cure = [], []
    for wanted in map(Requirement, metadata.requires("trainloom") or ()):
        if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        asked = f"{wanted.name}{wanted.specifier}"
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{wanted.name} is not installed")
            cure.append(asked)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            problems.append(f"{wanted.name} is {version}, not {wanted.specifier}")
            cure.append(asked)
    return problems, cure


def _import_error(name: str) -> str:
    """Why a package cannot be imported, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a package's own warnings are no defect of the installation
            importlib.import_module(name)
    except Exception as error:  # a broken installation may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def _shadowing(settings: Settings | None) -> Iterator[Check]:
    """Our package names are common words: another package of that name, found first, would be taken for ours."""
    wrong = []
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parent.parent != DISTRIBUTION:
            wrong.append(f"the package {name} comes from {origin.parent if origin else 'nowhere'}")
    if wrong:
        cure = f"trainloom's own are in {DISTRIBUTION}: rename the others or work in another folder"
        yield fail(name="shadowing", message=", ".join(wrong), cure=cure)
        return
    folders = {Path.cwd().resolve(), *([settings.code_dir.resolve()] if settings and settings.code_dir else [])} - {DISTRIBUTION}
    strangers = [
        str(path) for folder in sorted(folders) for name in OUR_PACKAGES for path in (folder / name, folder / f"{name}.py")
        if path.is_file() or (path / "__init__.py").is_file()
    ]  # fmt: skip
    if strangers:
        cure = "rename it: a Python that is started there takes it for trainloom's own"
        yield warn(name="shadowing", message=f"{', '.join(strangers)} has the name of one of our packages", cure=cure)
    else:
        yield ok(name="shadowing", message=f"our packages come from {DISTRIBUTION}")


def _cpu(settings: Settings | None) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0))
    workers = settings.worker_processes if settings else 1
    threads = (settings.torch_threads if settings else None) or max(1, cores // workers)
    message = f"{cores} cores; {workers} worker processes of {threads} torch threads"
    if workers * threads > cores:
        yield warn(name="cpu", message=message, cure="more threads than cores slow each other: lower worker_processes or torch_threads")
    else:
        yield ok(name="cpu", message=message)


def _gpu(settings: Settings | None) -> Iterator[Check]:
    """Whether torch can compute on the GPUs there are."""
    import torch

    wanted = settings.device if settings else "auto"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    told = f" ({said[0].message})" if said else ""
    if not usable:
        present = _driver_gpus()
        cure = "install a torch built for this driver's CUDA, or set the device to cpu"
        if wanted.startswith("cuda"):
            yield fail(name="gpu", message=f"the device is {wanted} and torch {torch.__version__} finds no usable GPU{told}", cure=cure)
        elif present:
            yield warn(name="gpu", message=f"torch {torch.__version__} cannot use {', '.join(present)}{told}", cure=cure)
        else:
            yield ok(name="gpu", message="none; trainings run on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index} {torch.cuda.get_device_name(index)}"
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            yield fail(name="gpu", message=f"{name} cannot compute: {reason}", cure="see who uses it with `nvidia-smi`, or set another device")
        else:
            yield ok(name="gpu", message=f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GB free")


def _driver_gpus() -> list[str]:
    """GPUs that the driver knows, whatever torch says; none where nvidia-ml-py is not installed."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []  # no driver, no GPU


def _own_code(settings: Settings) -> Iterator[Check]:
    """Whether the packages that rows may name can be imported."""
    folder = (settings.code_dir or Path.cwd()).resolve()
    resolver = ClassResolver(settings.allowed_packages, folder)
    for name in settings.allowed_packages:
        try:
            resolver.import_package(name)
        except UnresolvedClass as error:
            yield fail(name="own code", message=str(error), cure=f"correct it, or allowed_packages, or code_dir (now {folder})")
        else:
            yield ok(name="own code", message=f"{name} can be imported")
