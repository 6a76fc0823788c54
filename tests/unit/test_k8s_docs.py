"""The tables of values in docs/kubernetes.md are the code's; `python -m tests.unit.test_k8s_docs` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from k8s import values

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "values": values.Values,
    "worker": values.Group,
    "mounts": values.Mount,
    "required_nodes": values.NodeRequirement,
    "tolerations": values.Toleration,
    "secrets": values.Secret,
    "code": values.Code,
    "submitters": values.Subject,
    "autoscale": values.Scaling,
}


def rows(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"| `{name}` | {_default(field.default)} | {field.description} |"


def _default(value: Any) -> str:
    if value is PydanticUndefined or value in (None, (), {}, ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_value_is_documented_with_its_default(name: str) -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows(SECTIONS[name]) if row not in lines] == []


if __name__ == "__main__":
    for name, section in SECTIONS.items():
        print(f"\n**{name}**\n\n| value | default | meaning |\n|---|---|---|", *rows(section), sep="\n")
