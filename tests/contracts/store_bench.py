"""A store under test, with what the contract tests need to look behind and to break it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pymongo
from bson import Binary

from pipeline.store import Store
from pipeline.store.folder import FolderStore
from pipeline.store.gridfs import GridFSStore

MIB = 1 << 20
CHILD = str(Path(__file__).with_name("store_process.py"))


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Bench(ABC):
    """A store under test, with what the tests need to look behind and to break it."""

    store: Store
    arguments: list[str]

    @abstractmethod
    def kept_bytes(self) -> int:
        """The bytes of content that physically exist, visible or not."""

    @abstractmethod
    def flip_byte(self, sha256: str) -> None:
        """Change one stored byte in the middle of an object."""

    @abstractmethod
    def cut(self, sha256: str) -> None:
        """Lose the end of an object."""

    @abstractmethod
    def append(self, sha256: str) -> None:
        """Let an object go on after its end."""

    def process(self, action: str, *rest: object) -> subprocess.Popen[str]:
        """Another process that works on the same store."""
        command = [sys.executable, CHILD, *self.arguments, action, *map(str, rest)]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )


class FolderBench(Bench):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = FolderStore(root)
        self.arguments = ["folder", str(root)]

    def kept_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("content"))

    def content(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256[2:] / "content"

    def flip_byte(self, sha256: str) -> None:
        content = bytearray(self.content(sha256).read_bytes())
        content[len(content) // 2] ^= 1
        self.content(sha256).write_bytes(content)

    def cut(self, sha256: str) -> None:
        os.truncate(self.content(sha256), self.content(sha256).stat().st_size - 1)

    def append(self, sha256: str) -> None:
        with open(self.content(sha256), "ab") as file:
            file.write(b"!")


class GridFSBench(Bench):
    def __init__(self, uri: str, database: str, client: pymongo.MongoClient[Any]) -> None:
        self.bucket = client[database]["objects"]
        self.store = GridFSStore(lambda: client[database])
        self.arguments = ["gridfs", f"{uri}|{database}"]

    def kept_bytes(self) -> int:
        return sum(len(chunk["data"]) for chunk in self.bucket["chunks"].find())

    def chunks(self, sha256: str) -> list[dict[str, Any]]:
        file = self.bucket["files"].find_one({"metadata.sha256": sha256})
        assert file is not None
        return list(self.bucket["chunks"].find({"files_id": file["_id"]}).sort("n"))

    def flip_byte(self, sha256: str) -> None:
        chunks = self.chunks(sha256)
        chunk = chunks[len(chunks) // 2]
        data = bytearray(chunk["data"])
        data[len(data) // 2] ^= 1
        self.bucket["chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": Binary(bytes(data))}})

    def cut(self, sha256: str) -> None:
        self.bucket["chunks"].delete_one({"_id": self.chunks(sha256)[-1]["_id"]})

    def append(self, sha256: str) -> None:
        last = self.chunks(sha256)[-1]
        self.bucket["chunks"].insert_one({"files_id": last["files_id"], "n": last["n"] + 1, "data": Binary(b"!")})
