"""Images between files, pixels and bytes, by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from datasets_impl.errors import DatasetError

JPEG, PNG, RAW, SOURCE = "jpeg", "png", "raw", "source"
ENCODERS = (JPEG, PNG, RAW, SOURCE)
KEEP, APPLY, DROP = "keep", "apply", "drop"
EXIF_CHOICES = (KEEP, APPLY, DROP)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What Pillow raises for a file that is no image, is cut off, damaged or too large to be meant.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageForm:
    """How images are stored.

    Attributes:
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        size: (height, width) that they are resized to; None leaves each as it is.
        encoder: one of `ENCODERS`; `source` takes the bytes of the file as they are.
        quality: of JPEG, 1 to 95.
        exif: `keep` stores an encoded image's EXIF beside its unturned pixels, `apply` turns the pixels as it says and
            stores none, `drop` does neither.
        dtype: of the pixels.
    """

    channels: int
    size: tuple[int, int] | None
    encoder: str
    quality: int
    exif: str
    dtype: str

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise DatasetError(f"channels is {self.channels!r}: choose one of {', '.join(map(str, MODES))}.")
        if self.encoder not in ENCODERS:
            raise DatasetError(f"the encoder is {self.encoder!r}: choose one of {', '.join(ENCODERS)}.")
        if self.exif not in EXIF_CHOICES:
            raise DatasetError(f"exif is {self.exif!r}: choose one of {', '.join(EXIF_CHOICES)}.")
        if not _is_whole(self.quality) or not 1 <= self.quality <= 95:
            raise DatasetError(f"the quality is {self.quality!r}: give a whole number from 1 to 95.")
        if self.size is not None and not all(_is_whole(side) and 0 < side < 65_500 for side in self.size):
            raise DatasetError(f"height and width are {self.size!r}: give two whole numbers from 1 to 65499.")
        self._check_encoder()

    def _check_encoder(self) -> None:
        if self.encoder == JPEG and self.channels == 4:
            raise DatasetError("JPEG holds no 4 channels: choose the encoder png, or channels 3.")
        if self.encoder != RAW and self.dtype not in ("uint8", "uint16"):
            raise DatasetError(f"encoded images have no dtype {self.dtype}: choose the encoder raw, or uint8.")
        if self.dtype == "uint16" and (self.channels != 1 or self.encoder == JPEG):
            raise DatasetError("images of dtype uint16 have 1 channel and are stored by png, raw or source.")
        if self.encoder == SOURCE and (self.size is not None or self.exif != KEEP):
            raise DatasetError("the encoder source takes files as they are: give neither size nor exif, or re-encode.")


def read(content: bytes, form: ImageForm) -> Image.Image:
    """The image of a file's bytes in the form's mode and size; raises one of `UNREADABLE` for a bad one."""
    with Image.open(io.BytesIO(content)) as opened:
        if form.size is not None:
            height, width = form.size
            # JPEG is decoded at a fraction of its size where that still leaves twice what is asked for.
            opened.draft(None, (2 * max(width, height),) * 2 if form.exif == APPLY else (2 * width, 2 * height))
        opened.load()
        exif = opened.getexif() if form.exif == KEEP else None
        image = _converted(ImageOps.exif_transpose(opened) if form.exif == APPLY else opened, form)
    if form.size is not None and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    image.info = {"exif": exif.tobytes()} if exif else {}
    return image


def source_shape(content: bytes, form: ImageForm) -> tuple[int, int, int]:
    """(channels, height, width) of a file that is stored as it is, after a look at whether all of it is there."""
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        image.draft(None, (1, 1))
        image.load()
    return form.channels, height, width


def _converted(image: Image.Image, form: ImageForm) -> Image.Image:
    if form.dtype == "uint16":
        return image if image.mode == "I;16" else image.convert("L").convert("I").convert("I;16")
    if form.channels == 1 and np.dtype(form.dtype).kind == "f" and image.mode in ("F", "I", "I;16"):
        return image.convert("F")
    return image.convert(MODES[form.channels])


def from_pixels(array: np.ndarray, form: ImageForm) -> Image.Image:
    """The image of pixels, shape (height, width), (channels, height, width) or (height, width, channels), of dtype
    uint8 or uint16; in the form's mode and size.

    Raises:
        DatasetError: the array is none of these.
    """
    if array.ndim == 3 and array.shape[0] in MODES and array.shape[2] not in MODES:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or array.dtype not in (np.uint8, np.uint16):
        raise DatasetError(
            f"an array of shape {array.shape} and dtype {array.dtype} is no image: give uint8 or uint16 of shape "
            "(height, width), (channels, height, width) or (height, width, channels), or choose the encoder raw."
        )
    image = _converted(Image.fromarray(np.ascontiguousarray(array)), form)
    if form.size is not None and image.size != (form.size[1], form.size[0]):
        image = image.resize((form.size[1], form.size[0]), Image.Resampling.BILINEAR)
    image.info = {}
    return image


def pixels(image: Image.Image, dtype: str) -> np.ndarray:
    """The pixels of an image, channels first: shape (channels, height, width), values not scaled."""
    array = np.asarray(image)
    first = array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.ascontiguousarray(first, dtype=dtype)


def encode(image: Image.Image, form: ImageForm) -> bytes:
    """The image as JPEG or PNG, with its EXIF where the form keeps it."""
    stream = io.BytesIO()
    exif: dict[str, Any] = {"exif": image.info["exif"]} if "exif" in image.info else {}
    if form.encoder == JPEG:
        image.save(stream, "JPEG", quality=form.quality, **exif)
    else:
        image.save(stream, "PNG", compress_level=4, **exif)
    return stream.getvalue()


def decode(content: bytes | np.ndarray, channels: int, dtype: str = "uint8") -> np.ndarray:
    """The pixels of an encoded image: shape (channels, height, width).

    Raises:
        DatasetError: the bytes are no whole image.
    """
    try:
        with Image.open(io.BytesIO(bytes(content))) as image:
            mode = MODES[channels]
            return pixels(image if dtype == "uint16" or image.mode == mode else image.convert(mode), dtype)
    except UNREADABLE as error:
        raise DatasetError(f"a packed image cannot be decoded ({error}): pack the data again.") from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
