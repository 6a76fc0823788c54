"""What the documents say is so: settings, links, commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli.main import COMMANDS, build_parser
from pipeline.settings import OTHER_VARIABLES, PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (empty|`[^`]*`) \| (.+) \|$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_settings_md_lists_every_setting_with_its_variable_and_default() -> None:
    documented = {name: (variable, default) for name, variable, default, _ in ROW.findall(SETTINGS)}
    actual = {
        name: (f"{PREFIX}{name.upper()}", _as_written(field.default)) for name, field in Settings.model_fields.items()
    }
    assert documented == actual


def test_settings_md_names_every_other_variable() -> None:
    for variable in (*OTHER_VARIABLES, *Settings.aliases):
        assert f"`{variable}`" in SETTINGS


def _as_written(default: object) -> str:
    if default in (None, "", ()):
        return "empty"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        linked = (document.parent / target).resolve() if target else document
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), f"{target}#{anchor}"


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _shell_lines() -> list[str]:
    """The lines of all shell blocks."""
    blocks = [FENCE.findall(document.read_text(encoding="utf-8")) for document in DOCUMENTS]
    return [line for found in blocks for language, text in found if language == "sh" for line in text.splitlines()]


@pytest.mark.parametrize("line", [line for line in _shell_lines() if line.startswith("trainloom ")])
def test_commands_in_the_documents_exist(line: str) -> None:
    args = build_parser().parse_args(shlex.split(line, comments=True)[1:])
    assert callable(args.action)


def test_the_readme_lists_every_command_and_no_other() -> None:
    rows = re.findall(r"^\| `trainloom (\w+)", README, re.MULTILINE)
    assert tuple(rows) == COMMANDS


def test_the_options_and_actions_in_the_command_table_exist(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `trainloom (\w+)(.*)$", README, re.MULTILINE)
    for command, rest in rows:
        with pytest.raises(SystemExit):
            build_parser().parse_args([command, "--help"])
        text = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", rest):
            assert option in text, f"{command} {option}"
        if command in ("db", "task"):
            for action in re.findall(r"\b([a-z]+)\b", rest.partition("|")[0]):
                assert re.search(rf"^\s+{action}\b", text, re.MULTILINE), f"{command} {action}"


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [
        word for line in _shell_lines() if line.startswith("make ") for word in shlex.split(line, comments=True)[1:]
    ]
    named += [word for command in re.findall(r"`make ([^`]+)`", README) for word in command.split()]
    assert {"demo", "test"} <= set(named)
    assert {word for word in named if "=" not in word} <= targets
