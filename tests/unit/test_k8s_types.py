"""The types that are known here are those of the official client, of whichever version is installed."""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="needs the extra k8s")

from tests import kubernetes_types

WRITTEN_FROM = 37
GONE = {"PodSpec.workloadRef"}
"""Fields of a client between 34 and the one that the types were written from, which that no longer has."""


def without_marks(types: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{field.rstrip('!')}": form for name, fields in types.items() for field, form in fields.items()}


def test_every_field_of_the_client_is_known_with_its_type() -> None:
    known = without_marks(yaml.safe_load(resources.files("k8s").joinpath("types.yaml").read_text(encoding="utf-8")))
    there = {name: form for name, form in without_marks(kubernetes_types.types()).items() if name not in GONE}
    assert {name: (form, known.get(name)) for name, form in there.items() if known.get(name) != form} == {}
    if int(metadata.version("kubernetes").partition(".")[0]) == WRITTEN_FROM:
        assert set(known) == set(there)
