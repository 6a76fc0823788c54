"""`import trainloom`: quick, and not fooled by other packages with our common names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    return subprocess.run([sys.executable, "-c", path + program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["pipeline", "trainers"])
def test_a_package_that_hides_ours_is_named_with_its_path(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    done = run("from trainloom import connect", tmp_path)
    assert f"ImportError: the package {package} of trainloom is hidden by {tmp_path / package}" in done.stderr


def test_importing_the_door_loads_nothing_heavy(tmp_path: Path) -> None:
    done = run("import trainloom; print([m for m in ('torch', 'datajoint', 'pymongo') if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]"


def test_importing_the_tables_loads_neither_torch_nor_a_connection(tmp_path: Path) -> None:
    program = "import schemas.training_result; print([m for m in ('torch', 'pymongo', 'psycopg2') if m in sys.modules])"
    assert run(program, tmp_path).stdout.strip() in ("[]", "['psycopg2']")


def test_unknown_names_are_attribute_errors(tmp_path: Path) -> None:
    assert "has no attribute 'nothing'" in run("import trainloom; trainloom.nothing", tmp_path).stderr
    assert "has no attribute 'nothing'" in run("import schemas; schemas.nothing", tmp_path).stderr
    assert run("import trainloom; print('TrainingResult' in dir(trainloom))", tmp_path).stdout == "True\n"


def test_a_class_of_ours_that_another_package_hides_is_refused(tmp_path: Path) -> None:
    program = (
        "from pipeline.resolver import ClassResolver\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "for name in [m for m in sys.modules if m.startswith('models_impl')]: del sys.modules[name]\n"
        "ClassResolver().resolve('models_impl.simple_mlp', 'SimpleMLP', 'model')"
    )
    (tmp_path / "models_impl").mkdir()
    (tmp_path / "models_impl" / "__init__.py").write_text("")
    assert f"the package models_impl at {tmp_path / 'models_impl'}" in run(program, tmp_path / "elsewhere").stderr
