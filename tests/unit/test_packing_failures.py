"""Packing where something is wrong, or goes wrong half way: one sentence, and what was packed before is as it was."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_impl import packed_manifest
from datasets_impl.array_files import open_arrays, table_of
from datasets_impl.column_choice import choose_columns
from datasets_impl.errors import DatasetError
from datasets_impl.packed import PackedDataset, PackedTier
from datasets_impl.packing import WORKSHOP, pack
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.packing_source import FileList, PackingError, SourceChanged, SourceRow
from datasets_impl.tier_split import TierSplit
from tests.unit.packing_fixtures import IMAGE, LABEL, options, read_all, source, write_images, write_list


@contextmanager
def refused(folder: Path, message: str) -> Iterator[None]:
    """The body is refused with this message, and nothing that is packed in the folder changes."""

    def packed() -> dict[Path, bytes]:
        files = folder.glob("*-*/*")
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = packed()
    with pytest.raises(DatasetError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert packed() == before


def rewritten(listed: Path, *rows: Sequence[Any]) -> Path:
    """The list with other rows for the last ones."""
    lines = listed.read_text().splitlines()
    return write_list(listed, [line.split(",") for line in lines[: len(lines) - len(rows)]] + list(rows))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("bad", "reason"), [("missing.png", "No such file"), ("broken.png", "cannot be read")])
def test_an_image_that_cannot_be_read_stops_the_packing(tmp_path: Path, bad: str, reason: str, processes: int) -> None:
    listed = write_images(tmp_path, 12)
    pack(source(listed), tmp_path, "data", options())
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:70])
    rewritten(listed, (bad, 1))
    with refused(tmp_path, f"{bad}.*{reason}"):
        pack(source(listed), tmp_path, "data", options(), processes=processes)


def test_images_that_cannot_be_read_are_skipped_and_reported(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 12)
    (tmp_path / "broken.png").write_bytes(b"no image")
    rewritten(listed, ("missing.png", 1), ("broken.png", 1))
    manifest = packed_manifest.read(pack(source(listed), tmp_path, "data", options(unreadable="skip", shards=2)))
    assert [(entry["row"], entry["name"]) for entry in manifest.skipped] == [(10, "missing.png"), (11, "broken.png")]
    assert "No such file" in manifest.skipped[0]["reason"]
    assert sum(manifest.counts.values()) == 10
    for name in ("train", "validation", "test"):
        tier = PackedTier(tmp_path / f"data-{manifest.key[:12]}" / "manifest.json", name)
        assert len(tier.read(tier.manifest.column("image"), np.arange(tier.length))) == manifest.counts[name]


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        (("11.png", 3), {"classes": 3}, r"11.png has the label 3 in column 'label', but classes=3 allows 0 to 2"),
        (("11.png", "x"), {}, "11.png has 'x' in column 'label', which is no int64"),
        (("11.png", "1.5"), {}, "which is no int64"),
        (("11.png", ""), {}, "which is no int64"),
        (("11.png", 300), {"columns": (IMAGE, ColumnOptions("label", "target", "int8"))}, "300.*no int8"),
        (("11.png", -1), {"columns": (IMAGE, ColumnOptions("label", "target", "uint8"))}, "-1.*no uint8"),
        (("11.png", "1e9"), {"columns": (IMAGE, ColumnOptions("label", "target", "float16"))}, "no float16"),
        (("11.png", "1 2"), {}, r"11.png has shape \(2,\) in column 'label'"),
        (("11.png,0.png", 1), {"sequence": True}, "has shape"),
        (("", 1), {}, "names 0 files"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, row: Sequence[Any], changes: dict[str, Any], message: str
) -> None:
    listed = write_images(tmp_path, 12)
    pack(source(listed), tmp_path, "data", options())
    rewritten(listed, row)
    with refused(tmp_path, message):
        pack(source(listed, sequence=changes.get("sequence", False)), tmp_path, "data", options(**changes))


@pytest.mark.parametrize("encoder", ["raw", "png"])
@pytest.mark.parametrize("tier", ["train", "test"])
def test_mixed_shapes_are_named(tmp_path: Path, encoder: str, tier: str) -> None:
    write_images(tmp_path, 8, lambda number: (5 + (number == 7), 4))
    tiers = [
        "train",
        "train",
        "validation",
        "validation",
        "train",
        "train",
        "test" if tier == "train" else "train",
        tier,
    ]
    rows = [(f"{number}.png", 0, name) for number, name in enumerate(tiers)]
    listed = write_list(tmp_path / "list.csv", [("image", "label", "part"), *rows])
    with refused(tmp_path, r"7.png has shape \(3, 6, 4\) in column 'image' but .*\(3, 5, 4\)"):
        pack(source(listed), tmp_path, "data", options(encoder=encoder, split=TierSplit(column="part")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no example|header"),
        ("image,label\n", "names no example"),
        ("image,label\n0.png\n", "line 2 .* has 1 cells but its header 2"),
        ("image,image\n0.png,1\n", "a name of its own"),
        ("image,label\n0.png,\xff\n", "no CSV in UTF-8"),
        ('image,label\n"0.png,1\n', "no CSV in UTF-8"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content.encode("latin-1"))
    with refused(tmp_path, message):
        source(tmp_path / "list.csv")


def test_missing_columns_and_folders_are_named(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 12)
    with refused(tmp_path, r"has no column 'class' \(it has image, label\)"):
        pack(source(listed), tmp_path, "data", options(columns=(IMAGE, ColumnOptions("class", "target", "int64"))))
    with refused(tmp_path, "has no column 'part'"):
        pack(source(listed), tmp_path, "data", options(split=TierSplit(column="part")))
    with refused(tmp_path, "nowhere.*does not exist"):
        FileList(listed, tmp_path / "nowhere")
    with refused(tmp_path, "there is no folder .*nowhere: make it"):
        pack(source(listed), tmp_path / "nowhere", "data", options())
    with refused(tmp_path, "the name '../data' of packed data is unfit"):
        pack(source(listed), tmp_path, "../data", options())


def test_an_empty_tier_is_refused(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 2)
    alone = TierSplit(shares=(0.8, 0.1, 0.1), stratify="label")
    with refused(tmp_path, r"would be empty \(\d+ rows, each value of label divided by itself\)"):
        pack(source(write_images(tmp_path / "each", 12)), tmp_path, "data", options(split=alone))
    with refused(tmp_path, "the tier validation of .* would be empty"):
        pack(source(listed), tmp_path, "data", options(split=TierSplit(shares=(0.98, 0.01, 0.01))))
    for number in range(2):
        (tmp_path / f"{number}.png").unlink()
    rows = [("0.png", 0, "train"), ("1.png", 0, "test"), ("2.png", 0, "validation")]
    write_images(tmp_path / "more", 3)
    write_list(tmp_path / "list.csv", [("image", "label", "part"), *rows])
    (tmp_path / "more" / "1.png").unlink()
    asked = options(split=TierSplit(column="part"), unreadable="skip")
    with refused(tmp_path, "no example of the tier test of .* could be read"):
        pack(source(listed, folder=tmp_path / "more"), tmp_path, "data", asked)
    write_list(tmp_path / "list.csv", [("image", "label", "part"), ("0.png", 0, "dev")])
    with refused(tmp_path, "'dev' in the column 'part', which is no tier"):
        pack(source(listed, folder=tmp_path / "more"), tmp_path, "data", asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "gif"}, "the encoder is 'gif'"),
        ({"quality": 99}, "the quality is 99"),
        ({"channels": 2}, "channels is 2"),
        ({"channels": 4, "encoder": "jpeg"}, "JPEG holds no 4 channels"),
        ({"height": 4}, "only one of height and width"),
        ({"shards": 0}, "shards is 0"),
        ({"storage": "zip"}, "the storage is 'zip'"),
        ({"exif": "no"}, "exif is 'no'"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'"),
        ({"classes": 0}, "classes is 0"),
        ({"columns": (IMAGE,)}, "no column is a target"),
        ({"columns": (IMAGE, LABEL, LABEL)}, "named twice"),
        ({"encoder": "source", "height": 2, "width": 2}, "takes files as they are"),
        ({"encoder": "png", "columns": (ColumnOptions("image", "input", "float32", image=True), LABEL)}, "no dtype"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        options(**changes)
    with pytest.raises(DatasetError, match="there is no option"):
        options().changed(colour=1)
    with pytest.raises(DatasetError, match="split is"):
        TierSplit(shares=(0.5, 0.5, 0.5))


def test_a_file_that_changes_meanwhile_stops_the_packing(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 12)
    opened = source(listed)
    (tmp_path / "7.png").write_bytes((tmp_path / "6.png").read_bytes() + b" ")
    with refused(tmp_path, "7.png changed while it was packed"):
        pack(opened, tmp_path, "data", options(unreadable="skip"))
    opened = source(listed)
    listed.write_text(listed.read_text() + "0.png,0\n")
    with refused(tmp_path, "list.csv changed while it was packed"):
        pack(opened, tmp_path, "data", options())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    listed = write_images(tmp_path / "images", 12)
    (tmp_path / WORKSHOP).write_text("a file where a folder should be")
    with refused(tmp_path, f"{tmp_path} cannot be written"):
        pack(source(listed), tmp_path, "data", options())


@pytest.mark.parametrize("storage", ["hdf5", "npz"])
def test_a_full_disk_is_said_and_finished_shards_are_kept(tmp_path: Path, storage: str) -> None:
    """The limit on the size of a file stands for the end of the disk: the second shard holds larger images."""
    listed = write_images(tmp_path, 64, lambda number: (40, 40) if number >= 32 else (4, 4))
    asked = options(columns=(ColumnOptions("image", "input", "vuint8", image=True), LABEL), shards=2, storage=storage)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        with refused(tmp_path, "cannot be written: the disk is full or a limit is reached"):
            pack(source(listed), tmp_path, "data", asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    (first,) = tmp_path.glob(f"{WORKSHOP}/*/shard-00000.*")
    kept = first.stat().st_ino
    manifest = pack(source(listed), tmp_path, "data", asked)
    assert (manifest.parent / first.name).stat().st_ino == kept
    assert packed_manifest.damaged_shards(manifest, packed_manifest.read(manifest)) == []


KILLED = """
import json, sys
from pathlib import Path
from datasets_impl.packing import pack
from datasets_impl.packing_options import PackingOptions
from datasets_impl.packing_source import FileList

def tell(done, total):
    print(done, flush=True)
    if done >= int(sys.argv[3]):
        sys.stdin.read()

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    options = PackingOptions.from_json(json.loads(sys.argv[4]))
    pack(FileList(folder / "list.csv"), folder, "data", options, processes=int(sys.argv[2]), progress=tell)
"""
ASKED = json.dumps(options(shards=4).as_json())


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_packing_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, processes: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = pack(source(write_images(whole, 300)), whole, "data", options(shards=4))
    write_images(killed, 300)
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(killed), str(processes), "200", ASKED]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": root}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        while int(running.stdout.readline()) < 200:
            pass
        running.kill()
    assert not list(killed.glob("data-*"))
    finished = {path.name: path.stat().st_ino for path in killed.glob(f"{WORKSHOP}/*/shard-*")}
    assert len(finished) == 2
    told: list[int] = []
    manifest = pack(
        source(killed / "list.csv"), killed, "data", options(shards=4), progress=lambda n, _: told.append(n)
    )
    assert told[0] == 152  # what the first two shards hold
    assert {path.name: path.stat().st_ino for path in manifest.parent.glob("shard-*")}.items() >= finished.items()
    for path in expected.parent.iterdir():
        assert path.name == "lineage.json" or path.read_bytes() == (manifest.parent / path.name).read_bytes()


def test_a_finished_shard_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 300)

    def stop(done: int, _: int) -> None:
        if done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source(listed), tmp_path, "data", options(shards=4), progress=stop)
    (first, *_) = sorted(tmp_path.glob(f"{WORKSHOP}/*/shard-*"))
    with open(first, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    manifest = pack(source(listed), tmp_path, "data", options(shards=4))
    assert packed_manifest.damaged_shards(manifest, packed_manifest.read(manifest)) == []
    assert len(read_all(manifest, "label")) == 300


def test_two_packers_of_the_same_target_end_with_one(tmp_path: Path) -> None:
    write_images(tmp_path, 200)
    (tmp_path / "both.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "both.py"), str(tmp_path), "1", "1000", ASKED]
    root = str(Path(__file__).parents[2])
    running = [
        subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    (folder,) = tmp_path.glob("data-*")
    assert len(read_all(folder / "manifest.json", "label")) == 200
    assert [path.suffix for path in (tmp_path / WORKSHOP).iterdir()] == [".lock"]


def test_what_lies_there_damaged_is_replaced(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 12)
    manifest = pack(source(listed), tmp_path, "data", options())
    (manifest.parent / "shard-00000.h5").write_bytes(b"nothing")
    assert pack(source(listed), tmp_path, "data", options()) == manifest
    assert packed_manifest.damaged_shards(manifest, packed_manifest.read(manifest)) == []


def test_a_process_that_is_killed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = write_images(tmp_path, 400)
    opened = source(listed)
    ours = os.getpid()

    def rows(numbers: Sequence[int]) -> list[SourceRow]:
        if 0 not in numbers:  # when the processes run
            for child in _children(ours):
                os.kill(child, signal.SIGKILL)
        return FileList.rows(opened, numbers)

    monkeypatch.setattr(opened, "rows", rows)
    with refused(tmp_path, "a process that packs was killed"):
        pack(opened, tmp_path, "data", options(), processes=2)


def _children(parent: int) -> list[int]:
    """Processes that were started from here for a step."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], "is no manifest of packed data"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2 of the format"),
        (lambda text: text.replace("shard-00000.h5", "../shard-00000.h5"), "does not lie beside the manifest"),
        (lambda text: text.replace('"kind": "array"', '"kind": "cube"'), "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    manifest = pack(source(write_images(tmp_path, 12)), tmp_path, "data", options())
    manifest.write_text(change(manifest.read_text()))
    row = {"dataset_file_name": f"{manifest.parent.name}/manifest.json"}
    with pytest.raises(DatasetError, match=message):
        PackedDataset(row, tmp_path, "train")


@pytest.mark.parametrize("storage", ["hdf5", "npz"])
def test_a_shard_that_is_cut_off_is_named(tmp_path: Path, storage: str) -> None:
    manifest = pack(source(write_images(tmp_path, 12)), tmp_path, "data", options(storage=storage))
    (shard,) = manifest.parent.glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:300])
    dataset = PackedDataset({"dataset_file_name": f"{manifest.parent.name}/manifest.json"}, tmp_path, "train")
    with pytest.raises(DatasetError, match=f"{shard.name} is missing or damaged"):
        dataset.__getitems__([0])


def test_tables_that_cannot_be_packed_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.zeros(3))
    np.save(tmp_path / "x.npy", np.zeros(4))
    np.save(tmp_path / "objects.npy", np.asarray([{}, {}], object))
    (tmp_path / "text.txt").write_text("1")
    for names, message in (
        (["a.npz"], "differ in length"),
        (["x.npy", "a.npz"], "'x' is in .* and in a file before it"),
        (["objects.npy"], "objects.npy cannot be read"),
        (["text.txt"], "is no table that can be packed"),
        (["none.npy"], "none.npy cannot be read"),
    ):
        with refused(tmp_path, message):
            open_arrays([tmp_path / name for name in names])
    with refused(tmp_path, "is a int"):
        table_of(3)
    with refused(tmp_path, "column 'x' of the table .* without missing ones"):
        table_of({"x": [None, "a"]})
    found = table_of({"x": np.asarray([1.0, np.inf, 2.0, 3.0]), "y": [0, 1, 0, 1]})
    asked = PackingOptions(
        columns=choose_columns(found, dtypes={"x": "int64"}), split=TierSplit(shares=(0.5, 0.25, 0.25))
    )
    with refused(tmp_path, "which is no int64"):
        pack(found, tmp_path, "data", asked)
    assert issubclass(SourceChanged, PackingError)
