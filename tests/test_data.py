"""Pictures: those that packages ship, and files of every kind, right or wrong."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sparks_jax.data.folder import list_images, read_image
from sparks_jax.data.natural import NAMES, photographs

# Two rows of three: red, green, blue; grey, white, black.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[128] * 3, [255] * 3, [0] * 3]], np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


# --- photographs ---


def test_photographs_are_rgb():
    found = photographs()
    assert tuple(found) == NAMES
    for pixels in found.values():
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.std() > 20  # they show something


def test_unknown_photograph():
    with pytest.raises(ValueError, match="'lena'.*chelsea"):
        photographs(["lena"])


def test_missing_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"pip install 'sparks-jax\[demo\]'"):
        photographs(["chelsea"])


# --- files of every kind ---


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_colours_come_back(tmp_path, suffix):
    options = dict(lossless=True) if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS), **options)
    np.testing.assert_array_equal(read_image(path), COLOURS)
    np.testing.assert_array_equal(read_image(str(path)), COLOURS)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palettes(tmp_path, mode):
    black_and_white = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(black_and_white).convert(mode))
    np.testing.assert_array_equal(read_image(path), np.repeat(black_and_white[..., None], 3, -1))


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.array([[[255], [128], [0]]] * 2, np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(np.concatenate([COLOURS, alpha], -1)))
    share = alpha / 255
    np.testing.assert_allclose(read_image(path), share * COLOURS + (1 - share) * 255, atol=1)


def test_a_transparent_colour_of_a_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    path = saved(tmp_path / "a.gif", image, transparency=1)
    np.testing.assert_array_equal(read_image(path), [[[255, 0, 0], [255, 255, 255]]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        path = saved(tmp_path / f"a.{suffix}", Image.fromarray(levels))
        np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 128, 255])


def test_floating_point_is_scaled_from_darkest_to_lightest(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)))
    assert read_image(path)[0, :, 2].tolist() == [0, 128, 255]
    flat = saved(tmp_path / "b.tif", Image.fromarray(np.full((1, 2), 0.5, np.float32)))
    assert read_image(flat).tolist() == [[[0, 0, 0], [0, 0, 0]]]
    nan = saved(tmp_path / "c.tif", Image.fromarray(np.full((1, 2), np.nan, np.float32)))
    with pytest.raises(ValueError, match=r"c\.tif .*NaN"):
        read_image(nan)


def test_cmyk(tmp_path):
    """No ink is white; all of yellow and magenta is red, up to the loss of JPEG."""
    inks = np.broadcast_to(np.array([[[0, 255, 255, 0]]], np.uint8), (8, 8, 4))
    path = saved(tmp_path / "a.jpg", Image.fromarray(np.ascontiguousarray(inks), mode="CMYK"), quality=100)
    np.testing.assert_allclose(read_image(path)[4, 4].astype(int), [255, 0, 0], atol=3)


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_turned_upright_as_exif_says(tmp_path, orientation, turned):
    """6: the top of the scene is the right side of the stored picture, which a clockwise quarter turn puts up."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(COLOURS, turned))


def test_one_pixel(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("L", (1, 1), 7))
    assert read_image(path).tolist() == [[[7, 7, 7]]]


def test_first_frame_of_an_animation(tmp_path):
    first, second = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    path = saved(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


# --- files that are no pictures ---


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(IsADirectoryError, match=f"cannot read {tmp_path}"):
        read_image(tmp_path)


def test_text_and_nothing(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png is not a picture"):
        read_image(tmp_path / "text.png")
    (tmp_path / "nothing.png").touch()
    with pytest.raises(ValueError, match=r"nothing\.png is empty"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path / f"half.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"half\.{suffix} is"):
        read_image(path)


def test_a_bomb_is_not_opened(tmp_path):
    """A PNG of 10¹⁰ pixels: its header, and an empty chunk of data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    with pytest.raises(ValueError, match=r"bomb\.png is too large"):
        read_image(path)


# --- folders ---


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(ValueError, match="no picture in the folder .*inner"):
        list_images(tmp_path / "inner")
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*a\.jpg"):
        list_images(tmp_path / "a.jpg")
