"""The stream that checks what a store delivers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import pytest

from pipeline.store.errors import ObjectDamaged
from pipeline.store.verifying_reader import VerifyingReader

CONTENT = b"first line\nsecond line\n" + bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Chunks:
    """A source that gives its pieces as they are."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self.closed = True


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def reader(pieces: Sequence[bytes], sha256: str = SHA256) -> VerifyingReader:
    return VerifyingReader(Chunks(pieces), sha256=sha256, size=len(CONTENT), where="a store")


@pytest.mark.parametrize("cut_at", [1, 7, 1000, len(CONTENT)])
@pytest.mark.parametrize("size", [1, 10, 999, 1000, 1001, len(CONTENT), len(CONTENT) + 1])
def test_a_read_gives_as_much_as_it_is_asked_for(cut_at: int, size: int) -> None:
    with reader(cut(CONTENT, cut_at)) as stream:
        assert [*iter(lambda: stream.read(size), b"")] == cut(CONTENT, size)
        assert stream.read() == b""


def test_the_rest_is_read_in_one_go() -> None:
    with reader(cut(CONTENT, 1000)) as stream:
        assert stream.read(3) + stream.read() == CONTENT


def test_looking_ahead_takes_nothing() -> None:
    with reader(cut(CONTENT, 1000)) as stream:
        assert stream.peek() == CONTENT[:1000]
        assert stream.read1(5) == CONTENT[:5]
        assert stream.peek() == CONTENT[5:1000]
        assert stream.read1() == CONTENT[5:1000]
        assert stream.readline() == CONTENT[1000:].partition(b"\n")[0] + b"\n"


def test_it_can_be_read_as_text_and_into_a_buffer() -> None:
    with reader(cut(CONTENT, 1000)) as stream:
        assert io.TextIOWrapper(stream, "latin-1").readline() == "first line\n"
    buffer = bytearray(len(CONTENT))
    with reader(cut(CONTENT, len(CONTENT))) as stream:
        assert stream.readinto(buffer) == len(CONTENT)
    assert buffer == CONTENT


def test_pieces_are_handed_on_without_a_copy() -> None:
    pieces = cut(CONTENT, 1000)
    with reader(pieces) as stream:
        assert stream.read(1000) is pieces[0]
        assert stream.read(1000) is pieces[1]


@pytest.mark.parametrize("cut_at", [1000, len(CONTENT)])
@pytest.mark.parametrize("size", [10, 1000, len(CONTENT), -1])
def test_the_last_bytes_of_other_content_are_never_handed_out(cut_at: int, size: int) -> None:
    damaged = CONTENT[:-1] + b"?"
    received = 0
    with reader(cut(damaged, cut_at)) as stream:
        with pytest.raises(ObjectDamaged, match="its bytes have the sha256"):
            while piece := stream.read(size):
                received += len(piece)
        assert received <= len(CONTENT) - min(cut_at, len(CONTENT) % cut_at or cut_at)
        with pytest.raises(ObjectDamaged):
            stream.read(size)


def test_a_source_that_ends_early_is_told() -> None:
    with (
        reader(cut(CONTENT, 1000)[:-1]) as stream,
        pytest.raises(ObjectDamaged, match=f"{len(CONTENT) % 1000} bytes are missing at its end"),
    ):
        stream.read()


def test_closing_closes_the_source_and_ends_reading() -> None:
    source = Chunks(cut(CONTENT, 1000))
    stream = VerifyingReader(source, sha256=SHA256, size=len(CONTENT), where="a store")
    stream.read(1)
    stream.close()
    stream.close()
    assert source.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)
