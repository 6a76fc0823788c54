"""The Python of the README, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("project_environment")
def test_the_snippets_of_the_readme_train_four_tasks_draw_a_curve_and_load_models(tmp_path: Path) -> None:
    first, second = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    trained = _run(first, tmp_path)
    assert trained.count("'test_score'") == 4
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    loaded = _run(f"{second}print(type(model).__name__, type(newest).__name__, len(keys))\n", tmp_path)
    assert loaded.split() == ["SimpleMLP", "SimpleMLP", "4"]


def _run(snippet: str, folder: Path) -> str:
    """What a snippet prints."""
    (folder / "snippet.py").write_text(snippet, encoding="utf-8")
    done = subprocess.run([sys.executable, "snippet.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
