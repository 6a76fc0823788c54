from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pipeline import doctor, mounts
from pipeline.checks import machine, servers
from pipeline.checks.check import Check, Status, fail
from pipeline.home import Home
from pipeline.settings import Settings

SECRET = "gh/e1m@s"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No home and no package of ours in the working folder."""
    monkeypatch.chdir(tmp_path)


def only(found: object) -> Check:
    (check,) = found  # type: ignore[misc]
    return check


def test_a_line_holds_mark_part_message_and_cure() -> None:
    assert fail("gpu", "it is\nbroken.", "mend it").line == "FAIL  gpu        it is broken; mend it"


@pytest.mark.feature("N13")
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("database_password", SECRET),
        ("database_url", f"postgresql://u:{SECRET}@host/name"),
        ("database_url", "postgresql://u:gh%2Fe1m%40s@host/name"),
        ("mongo_url", f"mongodb://u:{SECRET}@host"),
    ],
)
def test_no_message_holds_a_secret(setting: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative(settings: Settings):
        yield fail("servers", f"cannot use {value} with {SECRET}", f"not {SECRET}?")
        raise RuntimeError(f"{value}: {SECRET}")

    monkeypatch.setattr(servers, "servers", talkative)
    for check in doctor.diagnose(Settings(**{setting: value})):
        assert SECRET not in check.line
        assert value not in check.line
    assert check.message.startswith("could not be looked at: RuntimeError: ***")


def test_a_part_that_breaks_keeps_no_other_from_being_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():
        raise RuntimeError("odd")
        yield

    monkeypatch.setattr(machine, "python", broken)
    found = doctor.diagnose(None)
    assert found[0] == fail("python", "could not be looked at: RuntimeError: odd")
    assert [check.name for check in found[1:]] == ["packages", "shadowing", "cpu", "gpu"]


def test_settings_are_listed_with_origin_and_without_secrets(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("num_workers: 3\nproject: filed")
    env = {"TRAINLOOM_PROJECT": "lab", "DJ_PASS": SECRET, "TRAINLOOM_ALLOWED_PACKAGES": "a b"}
    settings = Settings.load({"device": "cpu"}, config=config, env=env)
    listed = {setting.name: (setting.value, setting.origin) for setting in doctor.list_settings(settings, config, env)}
    assert listed.keys() == Settings.model_fields.keys()
    assert listed["num_workers"] == ("3", f"the file {config}")
    assert listed["project"] == ("lab", "the environment variable TRAINLOOM_PROJECT")
    assert listed["database_password"] == ("***", "the environment variable DJ_PASS")
    assert listed["allowed_packages"][0] == "a, b"
    assert listed["device"] == ("cpu", "given")
    assert listed["worker_processes"] == ("1", "default")
    assert listed["mongo_url"] == ("", "default")


@pytest.mark.feature("N13")
def test_a_package_that_hides_ours_is_named_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "k8s").mkdir(parents=True)
    (tmp_path / "lib" / "k8s" / "__init__.py").touch()
    assert only(machine.shadowing(None)).status is Status.OK
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "k8s", raising=False)
    check = only(machine.shadowing(None))
    assert check.status is Status.FAIL
    assert f"the package k8s comes from {tmp_path / 'lib' / 'k8s'}" in check.message


def test_a_package_with_our_name_in_the_working_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "trainers.py").touch()
    check = only(machine.shadowing(None))
    assert (check.status, str(tmp_path / "trainers") in check.message) == (Status.WARN, True)


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=999", "no-such-thing>=1", "psutil", 'not-wanted; extra == "mysql"']
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    check = only(machine.packages(None))
    assert check.status is Status.FAIL
    assert check.message == f"numpy is {metadata.version('numpy')}, not >=999, no-such-thing is not installed"
    assert check.cure == "run `pip install --force-reinstall 'numpy>=999' 'no-such-thing>=1'`"
    check = only(machine.packages(Settings(database_url="mysql://u@h/")))
    assert "not-wanted is not installed" in check.message


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine.packages(None)).status is Status.OK
    (tmp_path / "halfinstalled.py").write_text("raise OSError('libz.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(machine, "COMPILED", ("numpy", "halfinstalled"))
    check = only(machine.packages(None))
    assert check.status is Status.FAIL
    assert check.message == "halfinstalled cannot be imported (OSError: libz.so.1: cannot open)"


def test_more_threads_than_cores_is_a_warning() -> None:
    assert only(machine.cpu(Settings())).status is Status.OK
    assert only(machine.cpu(Settings(worker_processes=100, torch_threads=100))).status is Status.WARN


@pytest.mark.feature("N13")
def test_a_gpu_that_is_asked_for_and_not_usable_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_driver_gpus", lambda: ["NVIDIA T4"])
    check = only(machine.gpu(Settings(device="cuda")))
    assert (check.status, "finds no usable GPU" in check.message) == (Status.FAIL, True)
    check = only(machine.gpu(Settings()))
    assert (check.status, "cannot use NVIDIA T4" in check.message) == (Status.WARN, True)
    monkeypatch.setattr(machine, "_driver_gpus", list)
    assert only(machine.gpu(Settings())).status is Status.OK


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpus_that_compute_are_listed() -> None:
    found = list(machine.gpu(Settings()))
    assert len(found) == torch.cuda.device_count()
    assert {check.status for check in found} == {Status.OK}


def test_own_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_good.py").touch()
    (tmp_path / "lab_bad.py").write_text("import no_such_module")
    path = list(sys.path)
    good, bad, none = machine.own_code(Settings(allowed_packages="lab_good lab_bad lab_none", code_dir=tmp_path))
    assert (good.status, good.message) == (Status.OK, f"lab_good comes from {tmp_path / 'lab_good.py'}")
    assert (bad.status, "No module named 'no_such_module'" in bad.message) == (Status.FAIL, True)
    assert (none.status, str(tmp_path) in none.cure) == (Status.FAIL, True)
    assert sys.path == path


def test_no_home_is_a_warning_only_where_one_is_needed(tmp_path: Path) -> None:
    check = only(servers.home(Settings()))
    assert (check.status, "trainloom init" in check.cure) == (Status.WARN, True)
    elsewhere = Settings(database_url="postgresql://u@h/n", store="folder", store_dir=tmp_path)
    assert only(servers.home(elsewhere)).status is Status.OK
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_others_can_read_or_on_a_share_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.create(tmp_path / ".trainloom")
    assert only(servers.home(Settings())).status is Status.OK
    home.path.chmod(0o755)
    check = only(servers.home(Settings()))
    assert (check.status, check.cure) == (Status.FAIL, f"close it with `chmod 700 {home.path}`")
    monkeypatch.setattr(mounts, "file_system", lambda path: "nfs4")
    assert "network share" in only(servers.home(Settings())).message


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(
        dataset_dir=tmp_path / "none", dataset_cache_dir=tmp_path / "file", model_save_dir="/proc/1/models"
    )
    datasets, cache, models = servers.folders(settings)
    assert (datasets.status, datasets.message) == (Status.FAIL, f"there is no folder {tmp_path / 'none'}")
    assert (cache.status, cache.message) == (Status.FAIL, f"{tmp_path / 'file'} is no folder")
    assert (models.status, "cannot be written" in models.message) == (Status.FAIL, True)


def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    settings = Settings(model_save_dir=tmp_path / "models")
    for free, status in ((2**40, Status.OK), (2**30, Status.WARN), (2**20, Status.FAIL)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(free))
        assert only(servers.folders(settings)).status is status
    assert list(tmp_path.iterdir()) == []
