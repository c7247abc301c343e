"""What needs all classes: their concepts in one plane, and the nearest concepts of other classes."""

from pathlib import Path

import jax
import numpy as np

import sparks_jax.lens.schema as schema
from sparks_jax import concepts
from sparks_jax.lens.bundle import read_arrays, write_arrays
from sparks_jax.lens.settings import SIMILAR

BLOCK = 2048  # rows whose cosines with all others are held at once


def link(folder: Path, records: list[schema.ClassRecord], num_steps: int) -> schema.ArrayFile:
    """Write the concepts of all classes.

    Args:
        folder: Of the atlas.
        records: Its classes, in the order of the index.
        num_steps: Of t-SNE.
    """
    atoms = np.concatenate([read_arrays(folder, record.bank)["atoms"] for record in records]).astype(np.float64)
    atoms /= np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-30)
    listed = [(i, k, concept) for i, record in enumerate(records) for k, concept in enumerate(record.concepts)]
    number = np.array([i for i, _, _ in listed])
    plane = np.asarray(jax.jit(lambda rows: concepts.tsne(rows, num_steps=num_steps))(atoms.astype(np.float32)))
    own = [concept.own_cosine or 0.0 for _, _, concept in listed]
    rows = [number, [k for _, k, _ in listed], *plane.T, [concept.share for _, _, concept in listed], own]
    return write_arrays(
        folder, "arrays/concepts.f32", {"concepts": np.stack(rows, 1), "similar": _similar(atoms, number)}
    )


def _similar(atoms: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Pairs (row, cosine) of the nearest concepts of other classes; −1 and 0 where there is none."""
    count = SIMILAR if len(np.unique(number)) > 1 else 0
    found = np.zeros((len(atoms), count, 2), np.float64)
    found[..., 0] = -1
    for start in range(0, len(atoms) if count else 0, BLOCK):
        rows = slice(start, min(start + BLOCK, len(atoms)))
        cosines = np.clip(atoms[rows] @ atoms.T, -1, 1)
        cosines[number[rows, None] == number[None]] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(cosines, best, 1)
        there = np.isfinite(values)
        found[rows, : best.shape[1]] = np.stack([np.where(there, best, -1), np.where(there, values, 0)], -1)
    return found.reshape(len(atoms), 2 * count)
