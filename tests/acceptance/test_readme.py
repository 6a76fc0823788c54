"""The Python of the README, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("project_environment")
def test_the_snippet_of_the_readme_trains_four_tasks_and_draws_a_curve(tmp_path: Path) -> None:
    [snippet] = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    done = subprocess.run([sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'test_score'") == 4
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
