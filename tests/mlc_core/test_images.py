"""Each kind of image against pixels known in closed form, and bytes that are none."""

from __future__ import annotations

import io
import logging
import re
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from mlc_core.data.images import Picture, Undecodable, decode

SIZE = 16
PATIENCE = 5.0  # seconds of work; how long that takes depends on what else the machine does
RED, ORANGE = (255, 0, 0), (250, 130, 20)


def spelled(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (40, 30), colour)


def photo(width: int = 400, height: int = 300) -> Image.Image:
    """Smooth, with some grain: what a camera makes."""
    rng = np.random.default_rng(3)
    ground = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(ground) + grain, 0, 255).astype(np.uint8))


def palette() -> Image.Image:
    image = flat("P", 1)
    image.putpalette([0, 0, 0, *ORANGE])
    return image


def raw_tiff(samples: bytes, *, bits: int, stored: int | None = None) -> bytes:
    """A little-endian greyscale TIFF of 2 x 2 pixels, spelled by hand: Pillow does not write each kind."""
    tags = [
        (256, 3, 1, 2),
        (257, 3, 1, 2),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 3, 1, 2),
        (279, 4, 1, len(samples) if stored is None else stored),
        (339, 3, 1, 1),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + directory


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    *chunks: bytes, width: int = 1, height: int = 1, colour: int = 0, bits: int = 8, rows: bytes = b"\0\0"
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")))


KINDS = {
    "JPEG": spelled(photo(), "JPEG", quality=90),
    "progressive JPEG": spelled(photo(), "JPEG", progressive=True),
    "CMYK JPEG": spelled(photo().convert("CMYK"), "JPEG"),
    "PNG": spelled(photo(60, 45), "PNG"),
    "palette PNG": spelled(photo(60, 45).convert("P"), "PNG"),
    "WebP": spelled(photo(), "WEBP"),
    "TIFF": spelled(photo(60, 45), "TIFF"),
    "deflated TIFF": spelled(photo(60, 45), "TIFF", compression="tiff_adobe_deflate"),
    "BMP": spelled(photo(60, 45), "BMP"),
    "GIF": spelled(photo(60, 45), "GIF"),
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(spelled(flat("RGB", ORANGE), "PNG"), ORANGE, id="PNG"),
        pytest.param(spelled(flat("RGB", ORANGE), "BMP"), ORANGE, id="BMP"),
        pytest.param(spelled(flat("RGB", ORANGE), "TIFF"), ORANGE, id="TIFF"),
        pytest.param(spelled(flat("RGB", ORANGE), "TIFF", compression="tiff_lzw"), ORANGE, id="compressed TIFF"),
        pytest.param(spelled(flat("RGB", ORANGE), "WEBP", lossless=True), ORANGE, id="WebP"),
        pytest.param(spelled(flat("RGB", ORANGE), "GIF"), ORANGE, id="GIF"),
        pytest.param(spelled(palette(), "PNG"), ORANGE, id="palette PNG"),
        pytest.param(spelled(palette(), "PNG", transparency=1), (255, 255, 255), id="palette with a clear colour"),
        pytest.param(spelled(flat("RGB", RED), "PNG", transparency=RED), (255, 255, 255), id="colour key"),
        pytest.param(spelled(flat("L", 77), "JPEG", quality=100), (77, 77, 77), id="grey JPEG"),
        pytest.param(spelled(flat("L", 77), "PNG"), (77, 77, 77), id="grey PNG"),
        pytest.param(spelled(flat("1", 1), "PNG"), (255, 255, 255), id="black and white PNG"),
        pytest.param(spelled(flat("1", 1), "TIFF", compression="group4"), (255, 255, 255), id="fax TIFF"),
        pytest.param(spelled(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), RED, id="CMYK JPEG"),
        pytest.param(spelled(flat("CMYK", (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(spelled(flat("RGBA", (*RED, 0)), "PNG"), (255, 255, 255), id="clear PNG"),
        pytest.param(spelled(flat("RGBA", (*RED, 51)), "PNG"), (255, 204, 204), id="a fifth of red"),
        pytest.param(spelled(flat("LA", (0, 51)), "PNG"), (204, 204, 204), id="a fifth of black"),
        pytest.param(spelled(flat("RGBA", (*RED, 51)), "WEBP", lossless=True), (255, 204, 204), id="clear WebP"),
        pytest.param(spelled(flat("RGBA", (*RED, 51)), "TIFF"), (255, 204, 204), id="clear TIFF"),
        pytest.param(spelled(flat("I;16", 0x4D00), "PNG"), (77, 77, 77), id="16-bit PNG"),
        pytest.param(spelled(flat("I;16", 0x4DFF), "TIFF"), (77, 77, 77), id="16-bit TIFF"),
        pytest.param(raw_tiff(bytes([0x4D, 0x04, 0xD0] * 2), bits=12), (77, 77, 77), id="12-bit TIFF"),
    ],
)
def test_a_flat_colour_survives_in_each_kind_of_file(content: bytes, expected: tuple[int, int, int]) -> None:
    picture = decode(content, SIZE)

    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (3, SIZE, SIZE)
    assert np.abs(picture.pixels.astype(int) - np.reshape(expected, (3, 1, 1))).max() <= 1
    assert not picture.hash.any()


def test_16_bit_colours_are_scaled() -> None:
    wide = np.full((4, 4, 3), [0x1234, 0x80FF, 0xFF00], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    content = png(width=4, height=4, colour=2, bits=16, rows=rows)

    assert decode(content, 4).pixels[:, 0, 0].tolist() == [0x12, 0x80, 0xFF]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_exif_says(kind: str, orientation: int) -> None:
    displayed = Image.new("RGB", (320, 240), "white")
    displayed.paste(RED, (0, 0, 160, 120))  # what a viewer shows at the top left
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Transpose, undoing what EXIF asks for
    stored = displayed if back is None else displayed.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation

    picture = decode(spelled(stored, kind, exif=exif), 8)

    assert (picture.width, picture.height) == (320, 240)
    green = picture.pixels[1] > 127
    assert not green[:3, :3].any()
    assert green[5:].all()
    assert green[:, 5:].all()
    upright = decode(spelled(displayed, "PNG"), 8)
    assert distance(picture, upright) <= 16  # white is not all white behind a lossy codec


def test_a_damaged_exif_block_does_not_lose_the_picture() -> None:
    content = spelled(flat("L", 77), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=100)

    assert decode(content, SIZE).pixels[0, 0, 0] == 77


@pytest.mark.parametrize("shape", [(400, 300), (1600, 900), (33, 700), (20, 20), (1, 1), (5000, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_squashed_as_by_one_antialiased_bilinear_step(kind: str, shape: tuple[int, int]) -> None:
    content = spelled(photo(*shape), kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    whole = Image.open(io.BytesIO(content)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)

    pixels = decode(content, 32).pixels.transpose(1, 2, 0)

    off = np.abs(pixels.astype(int) - np.asarray(whole))
    assert off.mean() < 2
    assert off.max() < 16


def test_the_first_frame_of_several_is_taken() -> None:
    frames = [flat("RGB", RED), flat("RGB", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        pixels = decode(spelled(frames[0], kind, save_all=True, append_images=frames[1:]), 4).pixels
        assert (pixels[0] > 250).all(), kind
        assert (pixels[2] < 5).all(), kind


def test_the_hash_is_the_difference_hash_of_the_displayed_picture() -> None:
    image = photo(170, 160)  # a hundred pixels a cell, so that cells are plain means but for the bilinear overlap
    grey = np.asarray(image.resize((17, 16), Image.Resampling.BILINEAR).convert("L"))
    bits = [grey[row, column + 1] > grey[row, column] for row in range(16) for column in range(16)]

    picture = decode(spelled(image, "PNG"), SIZE)

    expected = bytes(int("".join(str(int(bit)) for bit in bits[i : i + 8]), 2) for i in range(0, 256, 8))
    assert bits.count(True) > 20
    assert picture.hash.dtype == np.uint64
    assert picture.hash.shape == (4,)
    near = np.frombuffer(expected, np.uint8) ^ picture.hash.view(np.uint8)
    assert np.unpackbits(near).sum() <= 6  # where two cells are all but equal


def distance(one: Picture, other: Picture) -> int:
    return int(np.bitwise_count(one.hash ^ other.hash).sum())


def test_copies_in_another_quality_and_size_are_near_and_other_pictures_far() -> None:
    image = photo()
    first = decode(spelled(image, "PNG"), SIZE)
    copies = [spelled(image, "JPEG", quality=40), spelled(image.resize((200, 150)), "WEBP")]
    others = [image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]

    assert max(distance(first, decode(copy, 64)) for copy in copies) <= 26
    assert min(distance(first, decode(spelled(other, "PNG"), SIZE)) for other in others) >= 64


def refused(content: bytes) -> str:
    start = time.process_time()
    with pytest.raises(Undecodable) as caught:
        decode(content, SIZE)
    assert time.process_time() - start < PATIENCE
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    whole = KINDS[kind]
    decode(whole, SIZE)

    for share in (0.5, 0.9):
        assert refused(whole[: int(share * len(whole))]).startswith(("is truncated", "is damaged", "is not an image"))


def test_each_refusal_says_why() -> None:
    assert refused(KINDS["JPEG"][:-500]) == "is truncated"
    kinds = "is not an image, or its beginning is damaged (JPEG, PNG, WEBP, TIFF, BMP, GIF are read)"
    assert refused(b"path,label\n") == kinds
    assert refused(b"") == kinds
    assert refused(spelled(flat("RGB", RED), "EPS")) == kinds
    assert refused(spelled(flat("F", 0.5), "TIFF")) == (
        "has 32 bits a pixel, and nothing says which value is white; save it with 8 or 16 bits"
    )


def test_bombs_are_refused_by_their_header() -> None:
    assert (
        refused(png(width=10_001, height=10_000)) == "has 100,010,000 pixels, more than the 100,000,000 that are read"
    )
    assert refused(png(width=2**30, height=2**30)) == "has more than the 100,000,000 pixels that are read"
    scan = spelled(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = scan[scan.rindex(b"\xff\xda") : -2]
    assert refused(scan[:-2] + last * 200 + scan[-2:]) == (
        "has 206 scans of 16,000,000 pixels, which would take too long"
    )
    runs = spelled(Image.new("P", (4, 4)), "BMP")
    runs = runs[:18] + struct.pack("<ii", 10_000, 5_000) + runs[26:30] + struct.pack("<I", 1) + runs[34:]
    assert refused(runs) == "has 50,000,000 pixels in run lengths, more than the 10,000,000 that are read"
    assert refused(raw_tiff(bytes(4), bits=8, stored=2**20)) == (
        f"has strips of 1,048,576 bytes in a file of {len(raw_tiff(bytes(4), bits=8))}"
    )


def test_headers_without_end_are_refused() -> None:
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**24)))
    assert refused(png(text)) == "is damaged (Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK)"
    assert refused(png(*[chunk(b"teSt", b"")] * 260_000)) == "consists of more than 500,000 pieces"
    exif = b"\xff\xe1\xff\xffExif\0\0" + bytes(0xFFFF - 8)
    assert refused(b"\xff\xd8" + exif * 600) == "has more than 33,554,432 bytes before its first pixel"
    assert refused(b"\xff\xd8\xff\xe0\0\2" + bytes(2**25)) == "consists of more than 500,000 pieces"


def test_the_largest_picture_that_is_read_takes_less_than_the_patience() -> None:
    content = spelled(Image.new("L", (10_000, 10_000), 9), "PNG", compress_level=1)
    start = time.process_time()
    assert (decode(content, SIZE).pixels == 9).all()
    assert time.process_time() - start < PATIENCE


def whether(content: bytes) -> None:
    """Decode, or be refused with a reason; in time, and without a warning, which would be an error here."""
    start = time.process_time()
    reason = ""
    try:
        picture = decode(content, SIZE)
        assert picture.pixels.shape == (3, SIZE, SIZE)
        assert picture.width * picture.height > 0
    except Undecodable as error:
        reason = str(error)
    assert re.fullmatch(r"|(is|has|consists of) [^\n]+", reason)
    assert time.process_time() - start < PATIENCE


broken = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
HEADS = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"II*\0\x08\0\0\0",
    b"BM",
    b"GIF89a",
]


@broken
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
def test_whatever_bytes_give_a_picture_or_a_reason(head: bytes, tail: bytes) -> None:
    whether(head + tail)


@broken
@pytest.mark.parametrize("kind", KINDS)
@given(draw=st.data())
def test_a_damaged_file_gives_a_picture_or_a_reason(kind: str, draw: st.DataObject) -> None:
    whole = KINDS[kind]
    content = bytearray(whole[: draw.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    # Half of the flips go to the first bytes, where the structure is.
    places = st.integers(0, max(0, len(content) - 1)) | st.integers(0, max(0, min(len(content), 700) - 1))
    for place in draw.draw(st.lists(places, max_size=8)):
        if content:
            content[place] ^= draw.draw(st.integers(1, 255))
    whether(bytes(content))


def test_pillows_warnings_stay_inside_and_those_of_others_do_not(caplog: pytest.LogCaptureFixture) -> None:
    noisy = raw_tiff(bytes(4), bits=8).replace(
        struct.pack("<HHII", 339, 3, 1, 1), struct.pack("<HHII", 306, 2, 99, 9**9)
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(noisy)) as image:
            image.load()
        assert heard
        heard.clear()
        filters = warnings.filters[:]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: whether(noisy), range(100)))
        assert heard == []
        assert warnings.filters == filters
        warnings.warn("ours", UserWarning, stacklevel=1)
        assert len(heard) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
