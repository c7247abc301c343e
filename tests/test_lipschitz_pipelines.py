"""The pipelines of large trainings, at their smallest size: interrupted and restored, it ends where the other does."""

import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from jax.sharding import Mesh

from experiments import lipschitz_cifar10, lipschitz_imagenet


@pytest.mark.parametrize("pipeline", [lipschitz_cifar10, lipschitz_imagenet], ids=["cifar10", "imagenet"])
def test_an_interrupted_run_ends_where_the_other_does(pipeline, tmp_path, capsys):
    """Four steps, the last two of them taken again from the checkpoint: the same images, so the same numbers."""
    config = pipeline.smallest(pipeline.Config(out=tmp_path))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    with tfds.testing.mock_data(num_examples=20):
        whole = jax.tree.map(np.asarray, pipeline.train(config, mesh))
        shutil.rmtree(tmp_path / "checkpoints" / "4")
        again = pipeline.train(config, mesh)
        record = pipeline.test(config, mesh, again)
    assert "going on from step 2" in capsys.readouterr().out
    assert again.step == config.steps
    for first, second in zip(*map(jax.tree.leaves, (whole, again)), strict=True):
        np.testing.assert_array_equal(first, second)
    assert record["images"] == 20
    assert 0 < record["lipschitz"] <= 1 + 1e-4
    assert record["certified 255"] <= record["certified 36"] <= record["accuracy"]


def test_a_bad_image_stops_the_run_with_the_step(tmp_path, monkeypatch):
    """What a reader of files lets through is named."""
    config = lipschitz_cifar10.smallest(lipschitz_cifar10.Config(out=tmp_path))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    bad = {"image": np.full((8, 32, 32, 3), np.nan, np.float32), "label": np.zeros(8)}
    monkeypatch.setattr(lipschitz_cifar10, "batches", lambda config, start: iter([bad]))
    with pytest.raises(FloatingPointError, match="step 0: the gradient is nan, first in the images"):
        lipschitz_cifar10.train(config, mesh)
