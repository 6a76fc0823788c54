"""The notebook, executed cell by cell in a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_first_training.ipynb"


@pytest.fixture
def executed(project_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes the notebook in a folder of its own; a failing cell fails the test with its traceback."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # plots are to become outputs, as they do for a person
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "error::DeprecationWarning:__main__")

    def execute() -> Any:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        NotebookClient(
            notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        return notebook

    return execute


def test_committed_outputs_are_cleared() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


@pytest.mark.feature("S4", "S5", "S6", "S7", "S14", "S20", "S22")
def test_the_notebook_trains_and_shows_results_and_changes_nothing_when_run_again(executed: Any) -> None:
    first = executed()
    text = _printed(first)
    assert _printed(first, "stderr") == ""
    assert "new: 1 dataset, 2 models, 1 training" in text
    assert "4 tasks, 4 of them new" in text
    assert "2 of 4 tasks are trained" in text
    assert "4 of 4 tasks are trained" in text
    assert "0 new tasks, 0 trained" in text

    again = _printed(executed())
    assert "new: 0 dataset, 0 models, 0 training" in again
    assert "4 tasks, 0 of them new" in again
    assert "2 of 4 tasks are trained" not in again

    assert len(_shown(first, "image/png")) == 3
    [diagram] = _shown(first, "image/svg+xml") or _shown(first, "text/vnd.mermaid")
    assert all(name in diagram for name in ("DatasetConfig", "TrainingTask", "TrainingResult"))
    tables = _shown(first, "text/html")
    assert any("digits.h5" in table and "[1, 8, 8]" in table for table in tables)
    assert any("accuracy" in table and "SmallCNN" in table and "SimpleMLP" in table for table in tables)


def _printed(notebook: Any, name: str = "stdout") -> str:
    """What all cells wrote to a stream."""
    return "".join(
        output.text for output in _outputs(notebook) if output.output_type == "stream" and output.name == name
    )


def _shown(notebook: Any, kind: str) -> list[str]:
    """What all cells showed, of a MIME type."""
    return [output.data[kind] for output in _outputs(notebook) if kind in output.get("data", {})]


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
