from __future__ import annotations

import json
import os

import pytest
import torch

from trainers import numerics


@pytest.fixture(autouse=True)
def settings_put_back():
    before = numerics.record()
    yield
    numerics.pin(before)


def test_threads_share_the_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [numerics.default_threads(processes) for processes in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


def test_settling_sets_and_records():
    recorded = numerics.settle(threads=1, deterministic=True)
    assert torch.get_num_threads() == recorded["threads"] == 1
    assert torch.are_deterministic_algorithms_enabled() is recorded["deterministic"] is True
    assert recorded["torch"] == torch.__version__
    assert recorded["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert numerics.settle(threads=2)["deterministic"] is False
    assert torch.get_num_threads() == 2


def test_threads_are_left_alone_when_not_given():
    torch.set_num_threads(1)
    assert numerics.settle()["threads"] == 1


def test_a_record_read_back_from_json_is_pinned():
    recorded = json.loads(json.dumps(numerics.settle(threads=1)))
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    assert numerics.pin(recorded) == {}
    assert numerics.record() == recorded


def test_what_cannot_be_pinned_is_told():
    recorded = numerics.record()
    differing = numerics.pin({**recorded, "torch": "1.0.0", "cpu_capability": "SSE"})
    assert differing == {
        "torch": ("1.0.0", recorded["torch"]),
        "cpu_capability": ("SSE", recorded["cpu_capability"]),
    }
