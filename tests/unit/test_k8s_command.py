"""`trainloom k8s render`: what it prints, what it says of mistakes, and what it takes from this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main

IMAGE = "lab/trainloom@sha256:" + "0" * 64


class Render:
    """Runs the command in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str, before: tuple[str, ...] = (), image: str = IMAGE) -> int:
        code = main.main([*before, "k8s", "render", "--image", image, *arguments])
        told = self._capsys.readouterr()
        self.text, self.err = told.out, told.err
        self.objects: list[dict[str, Any]] = list(yaml.safe_load_all(told.out))
        return code

    def config(self) -> dict[str, str]:
        found: dict[str, str] = self.objects[0]["data"]
        return found

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {item["metadata"]["name"]: item["spec"] for item in self.objects if item["kind"] == "Job"}


@pytest.fixture
def render(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    monkeypatch.chdir(tmp_path)
    return Render(capsys)


@pytest.mark.feature("S19")
def test_options_alone_render_a_job(render: Render) -> None:
    assert render("--workers", "8", "--gpus", "1", "--gpu-memory", "11Gi", "-n", "lab") == 0
    assert render.err == ""
    (spec,) = render.jobs().values()
    assert spec["parallelism"] == 8
    assert all(item["metadata"]["namespace"] == "lab" for item in render.objects)
    assert "nvidia.com/gpu.memory" in render.text


def test_a_file_values_and_patches(render: Render, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("name: digits\ngroups:\n  gpu: {gpus: 1}\n  cpu: {}\n")
    (tmp_path / "patch.yaml").write_text("kind: Job\nmetadata: {labels: {team: vision}}\n")
    code = render(
        "-f", "values.yaml", "--set", "groups.gpu.workers=8", "--set", "worker.env.A=b", "--patch", "patch.yaml"
    )
    assert code == 0
    jobs = render.jobs()
    assert {name: spec["parallelism"] for name, spec in jobs.items()} == {"digits-gpu": 8, "digits-cpu": 1}
    assert "name: A\n" in render.text
    assert [item["metadata"]["labels"].get("team") for item in render.objects if item["kind"] == "Job"] == [
        "vision"
    ] * 2


def test_a_mistake_prints_nothing_but_what_it_is(render: Render, tmp_path: Path) -> None:
    (tmp_path / "patch.yaml").write_text("kind: Job\nspec: {paralellism: 8}\n")
    assert render("--patch", "patch.yaml") == 1
    assert render.text == ""
    assert render.err == ("error: Job/trainloom: spec.paralellism: is no field of the API; did you mean parallelism?\n")


def test_a_warning_prints_the_objects_all_the_same(render: Render) -> None:
    assert render(image="lab/trainloom:latest") == 0
    assert render.err.startswith("warning: Job/trainloom: spec.template.spec.containers[0].image: ")
    assert render.jobs()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--set", "worker.gpu=1"], 1, "error: worker.gpu: is no value; did you mean gpus?"),
        (["--set", "worker.gpus"], 78, "error: --set takes path=value, not 'worker.gpus'"),
        (["--set", "worker.gpus=[1"], 78, "error: --set worker.gpus: '[1' is not valid YAML"),
        (["--gpu-memory", "11 GB", "--gpus", "1"], 1, "error: worker.gpu_memory: '11 GB' is no quantity"),
        (["-f", "none.yaml"], 1, "error: the values file none.yaml cannot be read"),
        (["--patch", "none.yaml"], 1, "error: the patch none.yaml cannot be read"),
        (["--set", "settings.projekt=x"], 78, "error: settings.projekt is no setting; did you mean project?"),
        (["--set", "settings.num_workers=x"], 78, "error: settings.num_workers: Input should be"),
        (["--set", "worker.settings.lease=x"], 78, "error: settings of trainloom.lease is no setting"),
        (["--set", "settings.database_url=postgresql://me:pw@db/x"], 1, "error: ConfigMap/trainloom: data.TRAINLOOM_"),
        (
            ["--set", "settings.mongo_url=mongodb://localhost"],
            1,
            "error: ConfigMap/trainloom: data.TRAINLOOM_MONGO_URL",
        ),
    ],
)
def test_what_is_wrong_is_named(render: Render, arguments: list[str], code: int, says: str) -> None:
    assert render(*arguments) == code
    assert render.text == ""
    assert render.err.startswith(says)
    assert ":pw@" not in render.err


def test_settings_of_the_project_go_along_but_not_those_of_this_machine(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainloom.d").mkdir()
    (tmp_path / "trainloom.d" / "lab.yaml").write_text("project: retina\ndataset_dir: /home/me/data\nmax_attempts: 5\n")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://mongo.example.org")
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "retina,cells")
    assert render("--set", "settings.max_attempts=2", before=("--set", "lease_seconds=90")) == 0
    config = render.config()
    assert config["TRAINLOOM_PROJECT"] == "retina"
    assert config["TRAINLOOM_MONGO_URL"] == "mongodb://mongo.example.org"
    assert config["TRAINLOOM_ALLOWED_PACKAGES"] == "retina,cells"
    assert config["TRAINLOOM_MAX_ATTEMPTS"] == "2"
    assert config["TRAINLOOM_LEASE_SECONDS"] == "90.0"
    assert config["TRAINLOOM_DATASET_DIR"] == "/scratch/datasets"


def test_an_address_with_a_password_stays_here_and_pods_get_it_from_a_secret(
    render: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me:s3cret@db.example.org/lab")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://mongo.example.org")
    assert render() == 0
    assert render.err == "database_url holds a password and stays here; pods get it from a Secret\n"
    assert "s3cret" not in render.text
    assert "key: TRAINLOOM_DATABASE_URL" in render.text
    assert "key: TRAINLOOM_MONGO_URL" not in render.text


def test_an_address_from_a_secret_is_not_mixed_with_that_of_this_project(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "values.yaml").write_text(
        "secrets: [{name: lab, env: {DJ_HOST: host, DJ_PASS: pass, TRAINLOOM_MONGO_URL: mongo}}]\n"
    )
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me@other.example.org/lab")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://localhost")
    assert render("-f", "values.yaml") == 0
    assert not {"TRAINLOOM_DATABASE_URL", "TRAINLOOM_MONGO_URL"} & set(render.config())


def test_a_server_of_this_machine_is_refused_with_the_cure(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me@localhost/lab")
    assert render() == 1
    assert "which in a pod is the pod itself; give the host's name as the cluster knows it" in render.err
