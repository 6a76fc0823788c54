"""Checks of Python, its packages, the code that rows may name, and the devices."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline import gpu_device
from pipeline.resolver import DISTRIBUTION
from pipeline.settings import Settings

from .check import Check, fail, ok, warn

OUR_PACKAGES = ("trainloom", "pipeline", "schemas", "trainers", "datasets_impl", "models_impl", "k8s")
# Packages with compiled parts: that they are installed does not mean that they work.
COMPILED = ("numpy", "torch", "h5py", "psycopg2", "pymongo", "pandas", "matplotlib", "datajoint")


def python() -> Iterator[Check]:
    yield ok("python", f"Python {platform.python_version()} at {sys.executable}")


def packages(settings: Settings | None) -> Iterator[Check]:
    """Versions against what trainloom asks for; whether those with compiled parts can be imported."""
    extras = ["", *(["embedded"] if settings is None or settings.database is None else [])]
    if settings is not None and settings.database is not None and settings.database.backend == "mysql":
        extras.append("mysql")
    try:
        problems, cure = _unmet(extras)
    except metadata.PackageNotFoundError:
        yield fail("packages", "trainloom is not installed", "run `pip install .` where its setup.cfg is")
        return
    broken = [f"{name} cannot be imported ({reason})" for name in COMPILED if (reason := _import_error(name))]
    if problems or broken:
        names = " ".join(repr(wanted) for wanted in cure) or " ".join(found.split()[0] for found in broken)
        yield fail("packages", ", ".join([*problems, *broken]), f"run `pip install --force-reinstall {names}`")
    else:
        yield ok("packages", f"trainloom {metadata.version('trainloom')} and all that it needs, at wanted versions")


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


def shadowing(settings: Settings | None) -> Iterator[Check]:
    """Our package names are common words: another package of that name, found first, would be taken for ours."""
    wrong = []
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parent.parent != DISTRIBUTION:
            wrong.append(f"the package {name} comes from {origin.parent if origin else 'nowhere'}")
    if wrong:
        cure = f"trainloom's own are in {DISTRIBUTION}: rename the others or work in another folder"
        yield fail("shadowing", ", ".join(wrong), cure)
        return
    folders = {Path.cwd().resolve(), *([settings.code_dir.resolve()] if settings and settings.code_dir else [])}
    places = [folder / name for folder in sorted(folders - {DISTRIBUTION}) for name in OUR_PACKAGES]
    strangers = [place for place in places if (place / "__init__.py").is_file() or place.with_suffix(".py").is_file()]
    if strangers:
        cure = "rename it: a Python that is started there takes it for trainloom's own"
        yield warn("shadowing", f"{', '.join(map(str, strangers))} has the name of one of our packages", cure)
    else:
        yield ok("shadowing", f"our packages come from {DISTRIBUTION}")


def cpu(settings: Settings | None) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0))
    workers = settings.worker_processes if settings else 1
    threads = (settings.torch_threads if settings else None) or max(1, cores // workers)
    shares = f"worker process{'es' * (workers > 1)} of {threads} torch thread{'s' * (threads > 1)}"
    message = f"{cores} cores; {workers} {shares}"
    if workers * threads > cores:
        yield warn("cpu", message, "more threads than cores slow each other: lower worker_processes or torch_threads")
    else:
        yield ok("cpu", message)


def gpu(settings: Settings | None) -> Iterator[Check]:
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
            yield fail("gpu", f"the device is {wanted} and torch {torch.__version__} finds no usable GPU{told}", cure)
        elif present:
            yield warn("gpu", f"torch {torch.__version__} cannot use {', '.join(present)}{told}", cure)
        else:
            yield ok("gpu", "none; trainings run on the CPU")
        return
    least = settings.gpu_memory if settings else None
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index} {torch.cuda.get_device_name(index)}"
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            yield fail(
                "gpu", f"{name} cannot compute: {reason}", "see who uses it with `trainloom gpu`, or set another device"
            )
        else:
            message = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            if least is not None and free < least:
                cure = "lower gpu_memory, or see who uses it with `trainloom gpu`"
                yield warn("gpu", f"{message}, less than the {least / 2**30:.1f} that gpu_memory asks for", cure)
            else:
                yield ok("gpu", message)
    try:
        for problem in gpu_device.read_all().problems:
            yield warn("gpu", problem)
    except gpu_device.GpusUnknown as error:
        cure = "GPUs are taken without regard to their memory, and trainings are not measured"
        yield warn("gpu", str(error), cure)


def _driver_gpus() -> list[str]:
    """GPUs that the driver knows, whatever torch says; none where it cannot be asked."""
    try:
        return [gpu.name for gpu in gpu_device.read_all().gpus]
    except gpu_device.GpusUnknown:
        return []


def own_code(settings: Settings) -> Iterator[Check]:
    """Whether the packages that rows may name can be imported, and from where."""
    folder = str((settings.code_dir or Path.cwd()).resolve())
    path = list(sys.path)
    sys.path.append(folder)  # last, as a session puts it: an installed package of that name comes first
    try:
        for name in settings.allowed_packages:
            if reason := _import_error(name):
                cure = f"correct it, allowed_packages or code_dir (now {folder})"
                yield fail("own code", f"{name} cannot be imported ({reason})", cure)
            else:
                place = getattr(sys.modules[name], "__file__", None) or folder
                yield ok("own code", f"{name} comes from {place}")
    finally:
        sys.path[:] = path
