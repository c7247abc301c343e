"""`visualize`: the same images as of one run, whatever the segments; an interrupt returns what there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import featviz, scores
from sparks_jax.jobs.visualize import visualize

SPECTRUM = featviz.Spectrum.natural(8)
OPTIONS = dict(spectrum=SPECTRUM, values_range=(0, 1), num_crops=2)


def means(batch):
    return batch.mean((1, 2))


def objectives():
    return [scores.logit(means, label) for label in (0, 1)]


def test_segments_change_nothing(key):
    """Every step draws from the key and its own count."""
    whole = visualize(objectives(), key=key, num_steps=5, every=5, **OPTIONS).visualizations
    parts = visualize(objectives(), key=key, num_steps=5, every=2, **OPTIONS).visualizations
    for a, b, f in zip(whole, parts, objectives(), strict=True):
        np.testing.assert_allclose(a.image, b.image, atol=1e-5)
        np.testing.assert_allclose(a.history, b.history, atol=1e-6)
        alone = jax.jit(lambda f: featviz.maco(f, key=key, num_steps=5, **OPTIONS))(f)
        np.testing.assert_allclose(a.image, alone.image, atol=1e-5)
        np.testing.assert_allclose(a.transparency, alone.transparency, atol=1e-6)


def test_another_objective_of_the_kind_compiles_nothing(key):
    traces = []

    def model(batch):
        traces.append(None)
        return means(batch)

    first, *others = [scores.logit(model, label) for label in (0, 1, 2)]
    visualize([first], key=key, num_steps=2, every=2, **OPTIONS)
    alone, _ = len(traces), traces.clear()
    visualize([first, *others], key=key, num_steps=2, every=2, **OPTIONS)
    assert len(traces) == alone > 0


def test_an_interrupt_returns_what_there_is(key):
    told = []

    def tick(i, steps, score):
        told.append((i, steps))
        if (i, steps) == (1, 4):
            raise KeyboardInterrupt

    seen = visualize(objectives(), key=key, num_steps=6, every=2, tick=tick, **OPTIONS)
    assert seen.interrupted
    assert told == [(0, 2), (0, 4), (0, 6), (1, 2), (1, 4)]
    assert [len(v.history) for v in seen.visualizations] == [6, 4]
    assert all(np.isfinite(v.image).all() for v in seen.visualizations)


def test_an_interrupt_before_the_first_step_returns_the_others(key):
    def stop(i, steps, score):
        if i == 0 and steps == 2:
            raise KeyboardInterrupt

    seen = visualize(objectives(), key=key, num_steps=2, every=2, tick=stop, **OPTIONS)
    assert [len(v.history) for v in seen.visualizations] == [2]


def test_nan_is_told_with_its_step(key):
    with pytest.raises(ValueError, match="visualize: the objective is nan from step 0 on"):
        visualize([lambda x: jnp.nan * x.mean()], key=key, num_steps=2, **OPTIONS)


@pytest.mark.parametrize("wrong", [dict(num_steps=0), dict(every=0)])
def test_counts(key, wrong):
    with pytest.raises(ValueError, match="expected at least 1"):
        visualize(objectives(), key=key, **(dict(num_steps=2) | wrong), **OPTIONS)


def test_what_is_finished_is_kept_and_what_is_not_is_not(key):
    """The second is interrupted: it is returned as far as it came, and not given to be saved."""

    def stop(i, steps, score):
        if i == 1:
            raise KeyboardInterrupt

    kept = {}
    seen = visualize(objectives(), key=key, num_steps=4, every=2, tick=stop, keep=kept.__setitem__, **OPTIONS)
    assert list(kept) == [0]
    assert kept[0] is seen.visualizations[0]
    assert [len(v.history) for v in seen.visualizations] == [4, 2]
    assert seen.interrupted
