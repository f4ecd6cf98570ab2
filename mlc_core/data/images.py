"""One file's bytes -> a small square of uint8 RGB, or why there is none; Pillow is spoken to here only.

Not here: which files there are (listing.py); where the squares are kept (store.py).
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mlc_core.data.dataset import Uint8

DECODER: Final = f"1 Pillow {PIL.__version__}"  # the same bytes give the same pixels as long as this stays the same
FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # of several frames the first is taken
HASH_DTYPE: Final = np.dtype("<u8")

# What keeps any file below a few seconds and a few hundred megabytes.
MAX_BYTES: Final = 2**28
MAX_PIXELS: Final = 100_000_000
MAX_HEADER: Final = 2**25  # bytes that are read before the first pixel
MAX_READS: Final = 500_000  # Pillow goes from piece to piece in Python
MAX_SCANNED: Final = 1_500_000_000  # pixels times scans of a progressive JPEG; each scan passes over all pixels
MAX_RUN_LENGTH: Final = 10_000_000  # pixels of a BMP in run lengths, which Pillow unpacks in Python

_GRID: Final = (17, 16)  # columns, rows: 16 differences in each of 16 rows are 256 bits
_UPRIGHT: Final[Mapping[object, Image.Transpose]] = {  # by what EXIF says of how the camera was held
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED: Final = (5, 6, 7, 8)  # height and width change places
_BITS_PER_SAMPLE: Final = 258  # the TIFF tag

# What Pillow and its plugins let through when bytes are not what a format promises.
_BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its complaints end on stderr


class Undecodable(Exception):
    """A file holds no picture that can be used; the text says why, as what follows the file's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is kept of one file."""

    pixels: Uint8  # (3, size, size), RGB
    width: int  # of the picture as it is displayed, pixels
    height: int
    hash: NDArray[np.uint64]  # (4,), difference hash; few bits differ where pictures look alike


def read_bytes(path: Path) -> bytes:
    """Read an image's file whole.

    Raises
    ------
    Undecodable
        It cannot be opened, or is too large.
    """
    try:
        with path.open("rb") as file:
            if (length := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise Undecodable(f"has {length:,} bytes, more than the {MAX_BYTES:,} that are read")
            return file.read()
    except OSError as error:
        raise Undecodable(f"cannot be opened ({error.strerror})") from None


def decode(content: bytes, size: int) -> Picture:
    """Decode a file's bytes, squashed to a square.

    EXIF orientation is applied, 16 bits are scaled to 8, what is transparent is white; colour profiles are not
    looked at, as in torchvision.

    Parameters
    ----------
    content : bytes
        A whole file in one of FORMATS.
    size : int
        Pixels on both sides of the square; bilinear, antialiased.

    Raises
    ------
    Undecodable
        Whatever is wrong with the bytes.

    Notes
    -----
    The hash is the difference hash of N. Krawetz ("Kind of Like That", hackerfactor.com, 2013) with 16 x 16 bits:
    whether grey rises from one cell of a 17 x 16 thumbnail to the next. A flat picture's is 0.
    """
    source = _Metered(content)
    with quiet:
        try:
            with Image.open(source, formats=FORMATS) as image:
                source.header = None
                _check(image, content)
                return _picture(image, size)
        except UnidentifiedImageError:
            raise Undecodable(f"is not an image, or its beginning is damaged ({', '.join(FORMATS)} are read)") from None
        except Image.DecompressionBombError:
            raise Undecodable(f"has more than the {MAX_PIXELS:,} pixels that are read") from None
        except _BROKEN as error:
            raise Undecodable(_why(error)) from None


class _Metered(io.BytesIO):
    """Bytes that end a plugin's walk through a file made to be walked through for hours."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads = MAX_READS  # left
        self.header: int | None = MAX_HEADER  # bytes left until the first pixel

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise Undecodable(f"consists of more than {MAX_READS:,} pieces")
        got = super().read(size)
        if self.header is not None and size is not None and size > 0:  # WebP is read whole
            self.header -= len(got)
            if self.header < 0:
                raise Undecodable(f"has more than {MAX_HEADER:,} bytes before its first pixel")
        return got


def _check(image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuse by the header what would take too long or too much memory."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise Undecodable(f"has {pixels:,} pixels, more than the {MAX_PIXELS:,} that are read")
    match image.format:
        case "JPEG" | "MPO":
            scans = content.count(b"\xff\xda")
            if pixels * scans > MAX_SCANNED:
                raise Undecodable(f"has {scans:,} scans of {pixels:,} pixels, which would take too long")
        case "BMP":
            if pixels > MAX_RUN_LENGTH and image.tile[0].codec_name == "bmp_rle":
                raise Undecodable(
                    f"has {pixels:,} pixels in run lengths, more than the {MAX_RUN_LENGTH:,} that are read"
                )
        case "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]  # it is a TIFF
            stored = sum(sum(tags.get(tag, ())) for tag in (279, 325))  # bytes in all strips, in all tiles
            if stored > 2 * len(content):
                raise Undecodable(f"has strips of {stored:,} bytes in a file of {len(content):,}")


def _picture(image: ImageFile.ImageFile, size: int) -> Picture:
    width, height = image.size
    edge = max(2 * size, 4 * _GRID[0])  # as far as cheap averaging may go; from there on it is bilinear
    # A JPEG is decoded at an eighth, a quarter or half of its size: means of squares, for a fraction of the time.
    drafted = image.draft(None, (edge, edge))
    right, lower = (width, height) if drafted is None else drafted[1][2:]
    image.load()
    orientation = _orientation(image)
    colours = _colours(image)
    factor = max(1, min(colours.width // edge, colours.height // edge))
    if factor > 1:
        colours = colours.reduce(factor)
    extent = (0, 0, right / factor, lower / factor)  # what is below and right of it was only filled up
    if colours.mode == "RGBA":
        white = Image.new("RGBA", colours.size, "white")
        white.alpha_composite(colours)
        colours = white.convert("RGB")

    def upright(columns: int, rows: int) -> Image.Image:
        turned = orientation in _TURNED
        small = colours.resize((rows, columns) if turned else (columns, rows), Image.Resampling.BILINEAR, extent)
        method = _UPRIGHT.get(orientation)
        return small if method is None else small.transpose(method)

    grey = np.asarray(upright(*_GRID).convert("L"))
    return Picture(
        pixels=np.ascontiguousarray(np.asarray(upright(size, size)).transpose(2, 0, 1)),
        width=height if orientation in _TURNED else width,
        height=width if orientation in _TURNED else height,
        hash=np.packbits(grey[:, 1:] > grey[:, :-1]).view(HASH_DTYPE),
    )


def _orientation(image: Image.Image) -> object:
    """Read what EXIF says, 1 to 8; a TIFF was turned when it was loaded."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1  # a damaged note at the side is no reason to lose the picture


def _colours(image: ImageFile.ImageFile) -> Image.Image:
    """Convert to RGB, or RGBA where something is transparent."""
    plain: Image.Image = image
    if image.mode.startswith("I;16"):
        bits = 12 if image.format == "TIFF" and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,) else 16  # type: ignore[attr-defined]
        plain = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    elif image.mode in ("I", "F"):  # Pillow would clip them to 255
        raise Undecodable("has 32 bits a pixel, and nothing says which value is white; save it with 8 or 16 bits")
    elif image.mode == "La":
        plain = image.convert("LA")
    return plain.convert("RGBA" if plain.has_transparency_data else "RGB")


def _why(error: BaseException) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "truncated" in said.lower():
        return "is truncated"
    return f"is damaged ({said})"


class _Quiet:
    """Keeps Pillow's warnings to itself while any thread decodes.

    `catch_warnings` changes what the whole process sees, so the first in opens it and the last out closes it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


quiet: Final = _Quiet()
