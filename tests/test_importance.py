"""Concept importance: all methods against closed forms where the head is affine, optimal orders, designs, intervals."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import sparks_jax.concepts.fading as fading
import sparks_jax.concepts.raising as raising
from sparks_jax import concepts, designs
from sparks_jax.concepts import Dictionary, any_number, c_deletion, c_fidelity, c_insertion, importance
from sparks_jax.scores import logit
from sparks_jax.sensitivity import count_evaluations

RNG = np.random.default_rng(0)
K, D, M = 6, 9, 3
KEY = jax.random.key(0)


def dictionary(k=K, d=D, dtype=jnp.float32, identity=False):
    atoms = np.eye(k) if identity else RNG.gamma(0.5, size=(k, d))
    mean, scale = (0, 1) if identity else (RNG.normal(size=d), 1.7)
    encoder = Partial(concepts.nonnegative)
    return Dictionary(*(jnp.asarray(a, dtype) for a in (atoms, mean + np.zeros(atoms.shape[1]), scale)), encoder)


WORDS = dictionary()
CODES = jnp.asarray(RNG.gamma(0.5, size=(4, 2, 3, K)) * RNG.integers(0, 2, (4, 2, 3, K)), jnp.float32)
WEIGHTS, BIAS = jnp.asarray(RNG.normal(size=(D, M)), jnp.float32), jnp.asarray(RNG.normal(size=M), jnp.float32)
LINEAR = Partial(lambda w, b, acts: acts.mean((1, 2)) @ w + b[None], WEIGHTS, BIAS)
CURVED = Partial(lambda w, acts: jax.nn.relu(acts).mean((1, 2)) @ w, WEIGHTS)
HEAD = logit(LINEAR, 1)


def contributions():
    """In double precision: σ ū_k (D v)_k, and F(0) = μ v + b."""
    atoms, mean, scale, v = (np.asarray(a, np.float64) for a in (*WORDS[:3], WEIGHTS[:, 1]))
    slope = scale * atoms @ v
    return np.asarray(CODES, np.float64).mean((1, 2)) * slope[None], slope, mean @ v + float(BIAS[1])


OMEGA, SLOPE, ORIGIN = contributions()
# Scores of size 3 in single precision, sums of a hundred products of size 1: 1e-6 of the largest is a dozen roundings.
CLOSE = dict(rtol=1e-5, atol=1e-6 * np.abs(OMEGA).max() + 2e-6)


def sampled(run, codes=CODES, head=HEAD, words=WORDS, **options):
    """A method as it is, without regard to the head."""
    return jax.jit(lambda codes: importance(head, words, codes, method=run, key=KEY, **options))(codes)


def closed(method, **options):
    """The closed form, found because the head is affine."""
    return jax.jit(lambda codes: importance(HEAD, WORDS, codes, method=method, **options))(CODES)


@pytest.mark.parametrize("method", ["auto", "gradient_input", "integrated_gradients", "occlusion", "shapley"])
def test_contributions_of_an_affine_head(method):
    """GI = IG = occlusion = Shapley = ω, by the closed form and by the method itself, and Σω + F(0) = h(uD)."""
    exact = closed(method)
    np.testing.assert_allclose(exact.values, OMEGA, **CLOSE)
    scores = jax.jit(jax.vmap(lambda u: HEAD(concepts.decode(WORDS, u))))(CODES)
    np.testing.assert_allclose(exact.total + ORIGIN, scores, **CLOSE)
    assert exact.exact
    assert (exact.stderr == 0).all()
    if method != "auto":
        found = sampled(getattr(fading, method))
        assert not found.exact
        np.testing.assert_allclose(found.values, OMEGA, **CLOSE)


def test_sobol_of_an_affine_head():
    """S_T = ω² / Σω²; 1024 rows of a scrambled net err by less than 0.02."""
    shares = OMEGA**2 / (OMEGA**2).sum(1, keepdims=True)
    exact = closed("sobol", num_designs=8)
    np.testing.assert_allclose(exact.values, shares, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(exact.total, 1, rtol=1e-6)
    found = sampled(partial(fading.sobol, num_designs=1024), CODES[:2])
    np.testing.assert_allclose(found.values, shares[:2], atol=0.02)
    assert (np.abs(found.values - shares[:2]) < 5 * found.stderr + 1e-6).all()


def test_rise_of_an_affine_head():
    """E[F | m_k = 1] = F(0) + qΣω + (1 - q)ω_k, over all masks; and sampled, within five of its standard deviations."""
    q = 0.7
    masks = np.array(list(itertools.product([0, 1], repeat=K)))
    probability = (q**masks * (1 - q) ** (1 - masks)).prod(1)
    values = ORIGIN + masks @ OMEGA.T
    expected = np.stack([(probability[:, None] * values * masks[:, k : k + 1]).sum(0) / q for k in range(K)], 1)
    got = closed("rise", keep=q, num_masks=2)
    np.testing.assert_allclose(got.values, expected, **CLOSE)
    found = sampled(partial(fading.rise, keep=q))
    deviation = np.sqrt(q * (1 - q) * (OMEGA**2).sum(1, keepdims=True) / (512 * q))
    assert (np.abs(found.values - expected) < 5 * deviation).all()
    assert ((found.stderr > 0) & (found.stderr < 4 * deviation)).all()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("saliency", np.abs(SLOPE)),
        ("smoothgrad", SLOPE),
        ("squaregrad", SLOPE**2),
        ("vargrad", 0 * SLOPE),
        ("tcav", SLOPE > 0),
    ],
)
def test_derivatives_of_an_affine_head(method, expected):
    """They are blind to how much there is of a concept: the same for all images."""
    expected = np.broadcast_to(expected, (len(CODES), K))
    np.testing.assert_allclose(closed(method).values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sampled(getattr(raising, method)).values, expected, rtol=1e-5, atol=1e-5)


def test_designs_for_equal_concepts():
    """Twenty equal concepts, 0.05 each: at 128 rows none is favoured for its number, and their sum is near 1.

    An estimate has a standard deviation of 6 %, so that the largest of twenty is 1.25 times the smallest, for half of
    the keys more. The raw Halton sequence, the default of public code, gives the first one seven times the last at 32
    rows, and loses three quarters of the variance, whatever the key.
    """
    twenty = jnp.ones(20)
    together = lambda u, product: u.sum() + product * u[0] * u[1]
    run = lambda product, key, **options: fading.sobol(partial(together, product=product), twenty, key=key, **options)
    mapped = jax.jit(jax.vmap(partial(run, num_designs=128), (None, 0)))
    keys = jax.random.split(KEY, 8)
    values = np.asarray(mapped(0.0, keys).values)
    assert np.median(values.max(1) / values.min(1)) < 1.3
    np.testing.assert_allclose(values.mean(0), 0.05, rtol=5 * 0.06 / 8**0.5)
    np.testing.assert_allclose(values.sum(1), 1, atol=0.15)
    raw = lambda n, dim, *, key: designs.halton(n, dim)
    defect = jax.jit(partial(run, num_designs=32, design=raw))(0.0, KEY).values
    assert defect.max() / defect.min() > 3
    assert defect.sum() < 0.6
    # Where the product of two is nearly all, of variance 7/144, each has a part in 1/48 + 1/144 of it: Σ S_T = 8/7.
    np.testing.assert_allclose(mapped(1e3, keys).values.sum(1).mean(), 8 / 7, atol=0.05)


def test_a_head_that_is_not_affine():
    """Contributions add up to F(u) - F(0), those of integrated gradients and Shapley values; no closed form is used."""
    head = logit(CURVED, 0)
    f = concepts.of_codes(head, WORDS)
    *found, rise = jax.jit(
        lambda u: [
            importance(head, WORDS, u),
            importance(head, WORDS, u, method="shapley"),
            jax.vmap(f)(u) - f(0 * u[0]),
        ]
    )(CODES)
    for result, tolerance in zip(found, (0.02, 1e-5), strict=True):  # 32 nodes across kinks; exact enumeration
        assert not result.exact
        np.testing.assert_allclose(result.total, rise, atol=tolerance * np.abs(rise).max())


def test_classes_are_mapped():
    """One program for all classes: `vmap` over the label, the closed form included."""
    labels = jnp.arange(M)
    for model in (LINEAR, CURVED):
        of_label = lambda label: importance(logit(model, label), WORDS, CODES, method="gradient_input").values
        together, *each = jax.jit(lambda y: [jax.vmap(of_label)(y), *(of_label(i) for i in range(M))])(labels)
        np.testing.assert_allclose(together, each, rtol=1e-4, atol=1e-5)


def test_intervals():
    """Of the mean over images: their spread, and the error of sampling, which all images share."""
    rise = partial(fading.rise, num_masks=16)
    run = jax.jit(lambda codes: importance(HEAD, WORDS, codes, method=rise, key=KEY))
    found, turned = run(CODES), run(CODES[::-1])
    variance = np.var(found.values, axis=0, ddof=1) / len(CODES) + np.mean(found.stderr, 0) ** 2
    np.testing.assert_allclose(found.mean_stderr, np.sqrt(variance), rtol=1e-5)
    np.testing.assert_allclose(found.mean, np.mean(found.values, 0), rtol=1e-5)
    # The values of an image do not depend on those it comes with, nor on its place among them.
    np.testing.assert_allclose(turned.values[::-1], found.values, rtol=1e-6)


def test_means_of_classes():
    means = jax.jit(lambda found: concepts.class_means(found, jnp.array([0, 1, 0, 0]), 3))(closed("auto"))
    some = OMEGA[[0, 2, 3]]
    np.testing.assert_allclose(means.mean[:2], [some.mean(0), OMEGA[1]], **CLOSE)
    np.testing.assert_allclose(means.stderr[0], some.std(0, ddof=1) / np.sqrt(3), rtol=1e-4, atol=1e-6)
    assert means.num_images.tolist() == [3, 1, 0]
    assert (means.mean[2] == 0).all()


@pytest.mark.parametrize(
    ("run", "cost"),
    [
        (fading.gradient_input, 1),
        (raising.saliency, 1),
        (raising.tcav, 1),
        (fading.integrated_gradients, 32),
        (fading.occlusion, K + 1),
        (fading.shapley, 2**K),
        (partial(fading.sobol, num_designs=64), 64 * (K + 2)),
        (partial(fading.rise, num_masks=128), 4 * 128),
        (partial(fading.hsic, num_points=128), 4 * 128),
        (raising.smoothgrad, 4 * 16),
        (raising.vargrad, 4 * 16),
    ],
)
def test_costs_are_as_they_say(run, cost):
    assert count_evaluations(lambda f: run(f, CODES[0], key=KEY).values) == cost


# --- faithfulness ---

SIGNED = jnp.array([3.0, -2.5, 1.0, 0.5, -0.4, 2.0, 0.1])
SEVEN = dictionary(7, identity=True)
TOTAL = lambda acts: acts @ SIGNED
ONES = jnp.ones(7)


def areas(order):
    """Of deletion and insertion of contributions in this order, from F(0) = 0 to their sum."""
    steps = np.cumsum(np.concatenate([np.zeros((len(order), 1)), np.asarray(SIGNED, np.float64)[order]], 1), 1)
    return np.trapezoid(steps[:, -1:] - steps, dx=1 / 7), np.trapezoid(steps, dx=1 / 7)


def test_the_order_of_contributions_is_optimal():
    """Against all 7! orders; that of ω² is far from it, as it takes what speaks against the class for important."""
    deletion, insertion = areas(np.array(list(itertools.permutations(range(7)))))
    run = jax.jit(lambda phi: [c(TOTAL, SEVEN, ONES, phi) for c in (c_deletion, c_insertion)])
    curves = run(SIGNED)
    np.testing.assert_allclose([c.auc for c in curves], [deletion.min(), insertion.max()], rtol=1e-5)
    # Means over the eight points, as in the literature.
    np.testing.assert_allclose(curves[0].scores.mean(), -0.925, atol=1e-6)
    np.testing.assert_allclose(run(SIGNED**2)[0].scores.mean(), 1.10, atol=1e-6)


def test_curves_by_hand():
    """Deletion and insertion go through the same sums from both ends, and say what no concept explains."""
    words = dictionary(3, identity=True)
    head = lambda acts: acts @ jnp.array([1.0, 2.0, 4.0])
    given = (head, words, jnp.array([1.0, 1.0, 0.5]), jnp.array([1.0, 2.0, 2.0]))
    acts = jnp.array([1.0, 1.0, 1.0])
    deletion, insertion = jax.jit(lambda acts: [c(*given, acts=acts) for c in (c_deletion, c_insertion)])(acts)
    assert deletion.scores.tolist() == [5, 3, 1, 0]  # of two alike the first goes first
    assert insertion.scores.tolist() == [0, 2, 4, 5]
    np.testing.assert_allclose([deletion.auc, insertion.auc], [6.5 / 3, 8.5 / 3], rtol=1e-6)
    assert deletion.gap == insertion.gap == 2
    many = jax.jit(jax.vmap(partial(c_deletion, head, words)))(*(jnp.stack([a] * 2) for a in given[2:]))
    assert many.gap is None
    np.testing.assert_allclose(many.scores, [deletion.scores] * 2)


def test_fidelity_of_an_affine_score():
    """1 for ω, whatever the sets. RISE adds a constant to each: 1 for sets of one size, less for sets of any size."""
    rise = 0.5 * SIGNED.sum() + 0.5 * SIGNED

    @jax.jit
    def run(weight):
        score = lambda acts: weight * TOTAL(acts) + 7
        of = lambda subset: lambda phi: c_fidelity(score, SEVEN, ONES, phi, key=KEY, subset=subset)
        phis = jnp.stack([SIGNED, rise, SIGNED**2, -SIGNED])
        return [jax.vmap(of(subset))(phis) for subset in (concepts.half, any_number)]

    of_one_size, of_any_size = np.asarray(run(1.0))
    np.testing.assert_allclose(of_one_size[[0, 1, 3]], [1, 1, -1], atol=1e-5)
    np.testing.assert_allclose(of_any_size[[0, 3]], [1, -1], atol=1e-5)
    assert of_any_size[1] < 0.9
    assert of_any_size[2] < 0.5
    np.testing.assert_array_equal(run(0.0), 0)  # of a constant score


def test_errors():
    with pytest.raises(ValueError, match="method is 'gini', expected one of auto, gradient_input"):
        importance(HEAD, WORDS, CODES, method="gini")
    with pytest.raises(ValueError, match=r"sobol: there is no key, expected key=jax.random.key\(…\)"):
        importance(logit(CURVED, 0), WORDS, CODES, method="sobol")
    with pytest.raises(ValueError, match="rise: there is no key"):
        importance(logit(CURVED, 0), WORDS, CODES, method="rise")
    with pytest.raises(ValueError, match="num_replicates is 1, expected at least 2"):
        importance(logit(CURVED, 0), WORDS, CODES, method="rise", key=KEY, num_replicates=1)
    with pytest.raises(ValueError, match=r"head returned shape \(3,\) .* expected one number; pass a score"):
        importance(lambda acts: LINEAR(acts[None])[0], WORDS, CODES)
    with pytest.raises(ValueError, match=r"codes have shape \(4, 2, 3, 5\), expected one for each image \(n, 6\)"):
        importance(HEAD, WORDS, CODES[..., :5])
    with pytest.raises(ValueError, match=r"c_deletion: importances have shape \(4, 6\) .* expected \(6,\)"):
        c_deletion(HEAD, WORDS, CODES[0], jnp.asarray(OMEGA, jnp.float32))
