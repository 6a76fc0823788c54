"""Every part looked at before work starts: what is wrong, plainly, and its cure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr

from . import settings as sources
from .checks import machine, servers
from .checks.check import Check, Status, fail
from .errors import PipelineError
from .settings import Settings

__all__ = ["Check", "Setting", "Status", "checks", "diagnose", "list_settings"]

MASK = "***"


@dataclass(frozen=True)
class Setting:
    """One setting: its value as text, secrets masked, where it comes from, and what it is."""

    name: str
    value: str
    origin: str
    description: str


def list_settings(settings: Settings, config: Path | None = None, env: Mapping[str, str] = os.environ) -> list[Setting]:
    """All settings of a project; `config` and `env` are what they were loaded with."""
    origins = dict.fromkeys(Settings.model_fields, "default")
    for where, layer in sources.layers(config, env):
        origins |= dict.fromkeys(layer, where)
    origins |= {name: "given" for name in settings.model_fields_set if origins[name] == "default"}
    fields = Settings.model_fields.items()
    return [
        Setting(name, _text(getattr(settings, name)), origins[name], field.description or "") for name, field in fields
    ]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return MASK if isinstance(value, SecretStr) else str(value)


def diagnose(settings: Settings | None) -> list[Check]:
    """Everything that `checks` finds."""
    return list(checks(settings))


def checks(settings: Settings | None) -> Iterator[Check]:
    """Look at every part, one after the other; without settings only at those that need none.

    Nothing is started or made; servers elsewhere are connected to. No message holds a secret.
    """
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", machine.python),
        ("packages", partial(machine.packages, settings)),
        ("shadowing", partial(machine.shadowing, settings)),
        ("cpu", partial(machine.cpu, settings)),
        ("gpu", partial(machine.gpu, settings)),
    ]
    if settings is not None:
        parts += [
            ("own code", partial(machine.own_code, settings)),
            ("home", partial(servers.home, settings)),
            ("folders", partial(servers.folders, settings)),
            ("servers", partial(servers.servers, settings)),
        ]
    yield from without_secrets(settings, (check for name, part in parts for check in _guarded(name, part)))


def without_secrets(settings: Settings | None, found: Iterable[Check]) -> Iterator[Check]:
    """Checks with every secret of the settings masked."""
    hidden = _secrets(settings) if settings is not None else []
    for check in found:
        yield replace(check, message=_without(hidden, check.message), cure=_without(hidden, check.cure))


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """What a part says; one that cannot even be looked at must not keep the others from being looked at."""
    try:
        yield from part()
    except PipelineError as error:
        yield fail(name, str(error))
    except Exception as error:
        yield fail(name, f"could not be looked at: {type(error).__name__}: {error}")


def _secrets(settings: Settings) -> list[str]:
    """Every text that no message may hold: passwords, and addresses that hold one; the longest first."""
    found: set[str] = set()
    for _, value in settings:
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            # A password with an unescaped / or @ makes no valid URL, and is a password still: up to the last @.
            passwords = re.findall(r"://[^@/:]*:(.*)@", text)
            found |= {text, *passwords, *map(unquote, passwords)}
    return sorted(found - {""}, key=len, reverse=True)


def _without(hidden: list[str], text: str) -> str:
    for secret in hidden:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text
