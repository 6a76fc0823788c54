"""Classes found by module and name. Names in rows are code: only allow-listed package roots are imported."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from schemas.errors import InvalidRow
from schemas.parameters import GIVEN, TRAINER_GIVEN, Signature, signature_of

OWN_ROOTS = ("trainers", "models_impl", "datasets_impl")
DISTRIBUTION = Path(__file__).resolve().parent.parent
METHODS = {
    "dataset": ("__len__", "__getitem__", "get_additional_model_params"),
    "sampler": ("__iter__", "__len__"),
    "trainer": ("train", "validate", "evaluate", "load_best_performing_model"),
}


class UnresolvedClass(InvalidRow):
    """A row names a class that cannot be used; the message says why and what to do."""


class ClassResolver:
    """Resolves the class names of rows, each once.

    Parameters
    ----------
    allowed_packages : roots of one's own, besides ours and torch.
    code_dir : folder that those roots are imported from when they are not installed.
    """

    def __init__(self, allowed_packages: Iterable[str] = (), code_dir: Path | None = None) -> None:
        self.allowed = (*OWN_ROOTS, "torch", *allowed_packages)
        if code_dir is not None and tuple(allowed_packages) and str(code_dir) not in sys.path:
            sys.path.append(str(code_dir))
        self._resolve = functools.cache(self._resolve_uncached)
        self._signature = functools.cache(
            lambda module, name, kind: signature_of(self._resolve(module, name, kind), kind)
        )

    def resolve(self, module: str, name: str, kind: str) -> type:
        """The class; `kind` is a key of `schemas.parameters.GIVEN`.

        Raises
        ------
        UnresolvedClass
            If the module is outside the allow-list, does not exist or fails to import, or the class is not of its
            kind's contract.
        """
        _check_names(module, name, kind)
        return self._resolve(module, name, kind)

    def signature(self, module: str, name: str, kind: str) -> Signature:
        """The parameters that a row may set on the class."""
        _check_names(module, name, kind)
        signature: Signature = self._signature(module, name, kind)
        return signature

    def resolve_function(self, module: str, name: str) -> Callable[..., Any]:
        """A function of an allow-listed package.

        Raises
        ------
        UnresolvedClass
            If the module is outside the allow-list, does not exist or fails to import, or has no such function.
        """
        if not _is_dotted_name(module) or not name.isidentifier():
            raise UnresolvedClass(f"a function is named as my_package.my_module:my_function, not {module}:{name}")
        what = f"the function {module}:{name}"
        self._check_root(module, what)
        found = getattr(self._import(module, what), name, None)
        if not inspect.isfunction(found):
            raise UnresolvedClass(f"the module {module} has no function {name}; correct the name")
        self._check_root(found.__module__, f"{module}:{name}, which comes from {found.__module__},")
        return found

    def with_functions(self, cls: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a class, with the functions that some of them name (`function_params`) in the place of names.

        Raises
        ------
        UnresolvedClass
            If a name is none, or its function cannot be found.
        """
        named = {name: params[name] for name in getattr(cls, "function_params", ()) if params.get(name) is not None}
        found = {}
        for name, given in named.items():
            module, _, function = str(given).partition(":")
            found[name] = self.resolve_function(module, function)
        return {**params, **found}

    def _resolve_uncached(self, module: str, name: str, kind: str) -> type:
        what = f"the {kind} class {module}.{name}"
        self._check_root(module, what)
        found = getattr(self._import(module, what), name, None)
        if found is None:
            raise UnresolvedClass(f"the module {module} has no {kind} class {name}; it has {_classes_in(module)}")
        if not isinstance(found, type):
            raise UnresolvedClass(
                f"{module}.{name} is a {type(found).__name__}, not a {kind} class; name the class itself"
            )
        self._check_root(found.__module__, f"{module}.{name}, which comes from {found.__module__},")
        _check_contract(found, kind)
        return found

    def _check_root(self, module: str, what: str) -> None:
        root = module.partition(".")[0]
        if root == "__main__":
            raise UnresolvedClass(
                f"{what} is defined in the running notebook or script (__main__), which no worker can import; "
                "move it into a module beside it and name that module's root in TRAINLOOM_ALLOWED_PACKAGES"
            )
        if root not in self.allowed:
            raise UnresolvedClass(
                f"{what} is outside the allowed packages ({', '.join(self.allowed)}); add {root} to "
                "TRAINLOOM_ALLOWED_PACKAGES if you trust it"
            )
        if root in OWN_ROOTS:
            _check_not_shadowed(root)

    def _import(self, module: str, what: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                raise UnresolvedClass(
                    f"{what} cannot be found: there is no module {error.name} "
                    "(looked beside the installed packages and in the code folder)"
                ) from error
            raise UnresolvedClass(
                f"importing {module} fails because {error.name} is not installed; install it or correct the import"
            ) from error
        except Exception as error:
            raise UnresolvedClass(f"importing {module} fails: {type(error).__name__}: {error}") from error


def _check_names(module: Any, name: Any, kind: str) -> None:
    """Names are dotted identifiers; anything else is refused before it reaches an import."""
    if kind not in GIVEN:
        raise ValueError(f"unknown kind of class {kind!r}")
    if not isinstance(module, str) or not _is_dotted_name(module):
        raise UnresolvedClass(
            f"the module of a {kind} class must be a dotted name such as my_package.my_module, not {module!r}"
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise UnresolvedClass(f"the name of a {kind} class must be a plain name such as MyClass, not {name!r}")


@functools.lru_cache(maxsize=1024)
def _is_dotted_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


@functools.cache
def _check_not_shadowed(root: str) -> None:
    """Our package names are common words: another package of the same name must not be taken for ours."""
    spec = importlib.util.find_spec(root)
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin is None or origin.parent.parent != DISTRIBUTION:
        raise UnresolvedClass(
            f"the package {root} at {origin} hides the one of trainloom at {DISTRIBUTION / root}; rename it or change "
            "the working folder"
        )


def _classes_in(module: str) -> str:
    classes = [
        name
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, type) and value.__module__ == module
    ]
    return ", ".join(sorted(classes)) or "no classes of its own"


def _check_contract(cls: type, kind: str) -> None:
    import torch

    label = f"{cls.__module__}.{cls.__qualname__}"
    for method in METHODS.get(kind, ()):
        if not callable(getattr(cls, method, None)):
            raise UnresolvedClass(f"{label} is no {kind} class: it lacks the method {method}")
    if kind == "model" and (not issubclass(cls, torch.nn.Module) or cls.forward is torch.nn.Module.forward):
        raise UnresolvedClass(f"{label} is no model class: it must be a torch.nn.Module with a forward method")
    if kind == "model" and cls.__module__.startswith("torch."):
        raise UnresolvedClass(
            f"{label} cannot be a model: models take input_shape and output_shape; write a class that wraps it"
        )
    if kind == "optimizer" and not issubclass(cls, torch.optim.Optimizer):
        raise UnresolvedClass(f"{label} is no optimizer class: it must be a torch.optim.Optimizer")
    if kind == "criterion" and not any("__call__" in vars(base) for base in cls.__mro__):
        raise UnresolvedClass(f"{label} is no criterion class: its objects must be callable with (output, target)")
    if kind == "scheduler" and not issubclass(cls, torch.optim.lr_scheduler.LRScheduler):
        raise UnresolvedClass(f"{label} is no scheduler class: it must be a torch.optim.lr_scheduler.LRScheduler")
    if kind == "trainer":
        _check_trainer_constructor(cls, label)


def _check_trainer_constructor(cls: type, label: str) -> None:
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    by_name = {name for name, parameter in parameters.items() if parameter.kind is not parameter.POSITIONAL_ONLY}
    if missing := sorted(TRAINER_GIVEN - by_name):
        raise UnresolvedClass(f"{label} is no trainer class: its constructor lacks {', '.join(missing)}")
