"""Whatever kind of image file: the right pixels, or one line that refuses it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

from bench.data import data_ref, open_ref, open_set
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet


def open_images(tmp_path, *images, **options):
    """Decode images of two classes."""
    write_parquet(tmp_path / "test.parquet", images, [i % 2 for i in range(len(images))], names=["a", "b"])
    return open_set(f"parquet:{tmp_path}", "test", folder=None, **options)


def encode_as(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_pixels(*images):
    return np.stack([np.atleast_3d(np.asarray(image)).transpose(2, 0, 1) for image in images])


def encode_sixteen_bits(pixels, colour_type):
    """Encode uint16 (H, W, C) as PNG by hand, since Pillow writes no colours of 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    scanlines = b"".join(b"\0" + scanline.astype(">u2").tobytes() for scanline in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b""))
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "YCbCr"])
def test_any_eight_bit_mode_becomes_rgb_as_in_torchvision(tmp_path, mode):
    data = encode_as(Image.fromarray(noise(0)).convert(mode), "TIFF")
    for name in ("a", "b"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "0.tiff").write_bytes(data)
    torchvision_images = ImageFolder(tmp_path / "tree")
    for images in (
        open_set(f"folder:{tmp_path / 'tree'}", "test", folder=None, channels=3),
        open_images(tmp_path, data, data, channels=3),
    ):
        assert np.array_equal(images.images, as_pixels(*(image for image, _ in torchvision_images)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_grey_set_stays_grey(tmp_path, kind):
    pixels = [noise(i, 6, 9, channels=1) for i in range(3)]
    files = [encode_as(Image.fromarray(p), kind) for p in pixels]
    grey = open_images(tmp_path, *files)
    assert np.array_equal(grey.images, np.stack(pixels)[:, None])
    ref = data_ref(grey)
    assert ref.image_shape == (1, 6, 9) and open_ref(ref, folder=None).sha == grey.sha
    wide = open_images(tmp_path, *files, channels=3)
    assert np.array_equal(wide.images, np.stack(pixels)[:, None].repeat(3, axis=1))
    ref = data_ref(wide)
    assert ref.image_shape == (3, 6, 9) and open_ref(ref, folder=None).sha == wide.sha != grey.sha


def test_one_colour_image_of_any_split_makes_a_set_rgb(tmp_path):
    grey = [noise(i, channels=1) for i in range(4)]
    write_parquet(tmp_path / "test.parquet", [encode(p) for p in grey[:2]], [0, 1])
    write_parquet(tmp_path / "train.parquet", [encode(p) for p in grey[2:]], [0, 1])
    assert open_set(f"parquet:{tmp_path}", "test", folder=None).images.shape == (2, 1, 32, 32)
    write_parquet(tmp_path / "train.parquet", [encode(grey[2]), encode(noise(9))], [0, 1])
    for split in ("train", "test"):
        assert open_set(f"parquet:{tmp_path}", split, folder=None).images.shape == (2, 3, 32, 32)
    narrow = open_set(f"parquet:{tmp_path}", "train", folder=None, channels=1)
    assert np.array_equal(narrow.images[1, 0], np.asarray(Image.fromarray(noise(9)).convert("L")))


def test_three_equal_channels_are_colour_and_a_palette_of_greys_is_grey(tmp_path):
    level = noise(0, channels=1)
    grey_rgb = np.stack([level] * 3, axis=2)
    assert open_images(tmp_path, encode(grey_rgb), encode(grey_rgb)).images.shape[1] == 3
    indexed = Image.fromarray(level // 64 * 80)
    with_palette = indexed.convert("P")
    data = encode_as(with_palette, "PNG")
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert np.array_equal(open_images(tmp_path, data, data).images[1, 0], np.asarray(indexed))
    coloured = encode_as(Image.fromarray(noise(1)).quantize(8), "PNG")
    assert open_images(tmp_path, data, coloured).images.shape[1] == 3


def test_a_named_set_keeps_its_channels(tmp_path):
    write_parquet(tmp_path / "svhn" / "test.parquet", [encode(noise(0, channels=1))], [0])
    assert open_set("svhn", "test", folder=tmp_path).images.shape == (1, 3, 32, 32)
    assert open_set("svhn", "test", folder=tmp_path, channels=1).images.shape == (1, 1, 32, 32)
    digits = open_set("digits", "test", folder=None)
    wide = open_set("digits", "test", folder=None, channels=3)
    assert np.array_equal(wide.images, np.asarray(digits.images).repeat(3, axis=1))


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused_not_cut(tmp_path, colour_type, channels):
    wide = np.random.default_rng(0).integers(0, 65536, (4, 5, channels), dtype=np.uint16)
    with pytest.raises(UsageError, match=r"row 0: an image of .*16.* 8 bits a channel are wanted, so convert it"):
        open_images(tmp_path, encode_sixteen_bits(wide, colour_type), encode(noise(0)))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_a_grey_image_of_more_than_eight_bits_is_refused(tmp_path, mode):
    with pytest.raises(UsageError, match=f"row 0: an image of mode {mode}; 8 bits"):
        open_images(tmp_path, encode_as(Image.new(mode, (4, 5)), "TIFF"), encode(noise(0)))


def test_fewer_than_eight_bits_fill_the_range(tmp_path):
    ink = noise(0, channels=1) // 128
    data = encode_as(Image.fromarray(ink * 255).convert("1"), "PNG")
    assert np.array_equal(open_images(tmp_path, data, data).images[0, 0], ink * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_exif_block_says(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(0, 20, 30)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encode_as(Image.fromarray(pixels), kind, exif=exif, **options)
    # From the EXIF standard: the side of the upright image on which the first row and column are.
    upright = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
              5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1),
              7: lambda p: p[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90}[orientation](pixels)  # fmt: skip
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))), upright)
    images = open_images(tmp_path, data, data)
    assert np.array_equal(images.images, as_pixels(upright, upright))
    # The size of the set is that of the upright image.
    assert open_images(tmp_path, data, encode(np.ascontiguousarray(upright))).images.shape == images.images.shape
    if orientation > 4:
        with pytest.raises(UsageError, match="row 1 is 20x30, not 30x20"):
            open_images(tmp_path, data, encode(pixels))


def test_a_rotated_photograph_in_a_folder_is_pillows(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(noise(0, 24, 16)).save(tmp_path / name / "0.jpg", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a" / "0.jpg"))
    images = open_set(f"folder:{tmp_path}", "test", folder=None)
    assert expected.size == (24, 16) and np.array_equal(images.images, as_pixels(expected, expected))
    small = open_set(f"folder:{tmp_path}", "test", folder=None, image_size=(8, 12))
    assert np.array_equal(small.images[0], as_pixels(expected.resize((12, 8), Image.Resampling.BILINEAR))[0])


def test_an_exif_block_that_is_rubbish_turns_nothing(tmp_path):
    plain = encode_as(Image.fromarray(noise(0)), "JPEG", exif=b"Exif\0\0rubbish")
    expected = Image.open(io.BytesIO(encode_as(Image.fromarray(noise(0)), "JPEG")))
    assert np.array_equal(open_images(tmp_path, plain, plain).images, as_pixels(expected, expected))


def test_alpha_is_dropped_and_said_where_it_shows(tmp_path, caplog):
    pixels = np.concatenate([noise(0), np.full((32, 32, 1), 255, np.uint8)], axis=2)
    opaque = encode(pixels)
    assert np.array_equal(open_images(tmp_path / "a", opaque, opaque).images[0], noise(0).transpose(2, 0, 1))
    assert "opaque" not in caplog.text
    pixels[3, 4, 3] = 254
    images = open_images(tmp_path / "b", opaque, encode(pixels))
    assert np.array_equal(images.images[1], noise(0).transpose(2, 0, 1))
    assert caplog.text.count("row 1 has pixels that are not opaque; alpha is dropped") == 1
    open_set(images.name, "test", folder=None)
    assert caplog.text.count("not opaque") == 1
    indexed = encode_as(Image.fromarray(noise(1)).quantize(8), "PNG", transparency=3)
    open_images(tmp_path / "c", indexed, indexed)
    assert caplog.text.count("not opaque") == 2
