"""Laws of the factorizations: planted parts are found, errors fall, padding is nothing, and bad input is named."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sparks_jax import concepts
from sparks_jax.concepts import decode, encode
from sparks_jax.concepts.clusters import seeds
from sparks_jax.concepts.dictionary import canonical
from sparks_jax.concepts.divergence import divergence

pytestmark = pytest.mark.usefixtures("double")

KEY = jax.random.key(0)
# Method, and options that make it cheap.
METHODS = {
    "nmf": dict(num_steps=20),
    "nmf_mu": dict(num_steps=20),
    "nmf_kl": dict(num_steps=20),
    "semi_nmf": dict(num_steps=20),
    "convex_nmf": dict(num_steps=20),
    "archetypal": dict(num_steps=20),
    "pca": dict(),
    "ica": dict(num_steps=20),
    "kmeans": dict(num_steps=5),
    "sparse_dictionary": dict(num_steps=5, encoder=partial(concepts.pursuit, num_nonzero=2)),
}
NONNEGATIVE = ("nmf", "nmf_mu", "nmf_kl")
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def double():
    """Laws hold to rounding: in float64 a bound of 1e-9 tells them from what is nearly so."""
    with jax.enable_x64(True):
        yield


def parts(n, d, rank, seed=0, noise=0.05):
    """Sparse codes of sparse atoms, and some noise."""
    rng = np.random.default_rng(seed)
    atoms = rng.gamma(0.3, size=(rank, d))
    return rng.gamma(0.3, size=(n, rank)) @ atoms + noise * np.abs(rng.normal(size=(n, d))), atoms


ACTS = parts(24, 8, 3)[0]


def fit(name, rank=3, **options):
    return jax.jit(partial(getattr(concepts, name), rank=rank, **{**METHODS[name], **options}))


@functools.cache
def fitted(name):
    return fit(name)(ACTS, key=KEY)


def matched(found, planted):
    """Cosines of atoms with those planted, matched one to one."""
    unit = lambda x: np.asarray(x) / np.linalg.norm(np.asarray(x), axis=1, keepdims=True)
    cosines = unit(found) @ unit(planted).T
    return cosines[linear_sum_assignment(-cosines)]


def missing(acts, fitted):
    return np.linalg.norm(acts - np.asarray(decode(fitted.dictionary, fitted.codes))) / np.linalg.norm(acts)


# --- laws of all


@each_method
def test_canonical_form_and_errors(name):
    """Sorted by energy; atoms of norm 1 but for points; the last error is that of codes and atoms; none is a rise.

    A square of an error is a difference of ones, rounded at 1e-16 times the sum of a few hundred products.
    """
    result = fitted(name)
    energies, errors = np.asarray(result.energies), np.asarray(result.errors)
    assert (np.diff(energies) <= 0).all()
    if name not in ("archetypal", "kmeans"):
        np.testing.assert_allclose(jnp.linalg.norm(result.dictionary.atoms, axis=1), 1, rtol=1e-14)
    if name != "nmf_kl":  # its errors are divergences
        np.testing.assert_allclose(errors[-1] ** 2, missing(ACTS, result) ** 2, atol=1e-13)
    if name != "sparse_dictionary":  # greedy
        assert (np.diff(errors**2) <= 1e-14).all()
    if name not in ("pca", "ica"):
        assert len(errors) == METHODS[name]["num_steps"] + 1
        assert errors[-1] < errors[0]
    if name not in ("pca", "ica", "sparse_dictionary"):
        assert (result.codes >= 0).all()


@each_method
def test_classes_are_mapped_and_rows_of_zeros_are_padding(name):
    """One program for a class that is padded and another that is longer gives what the shorter one gives alone."""
    padded = jnp.concatenate([ACTS, jnp.zeros((6, 8))])
    both = jax.jit(jax.vmap(partial(fit(name), key=KEY)))(jnp.stack([padded, parts(30, 8, 3, seed=1)[0]]))
    one, alone = jax.tree.map(lambda x: x[0], both), fitted(name)
    np.testing.assert_allclose(one.dictionary.atoms, alone.dictionary.atoms, atol=1e-8)
    np.testing.assert_allclose(one.codes[:24], alone.codes, atol=1e-7)
    np.testing.assert_allclose(one.errors, alone.errors, atol=1e-8)
    assert (one.codes[24:] == 0).all()


@each_method
def test_codes_of_the_rows_it_was_fitted_to(name):
    """New activations are coded by the rule of the fit: no worse, and for closed rules the very same."""
    result = fitted(name)
    codes = jax.jit(lambda d, a: encode(d, a))(result.dictionary, jnp.asarray(ACTS))
    if name in ("pca", "ica", "kmeans", "sparse_dictionary"):
        np.testing.assert_allclose(codes, result.codes, atol=1e-10)
    elif name == "nmf_kl":
        loss = lambda codes: divergence(jnp.asarray(ACTS), codes @ result.dictionary.atoms).item()
        assert loss(codes) < loss(result.codes) * 1.001  # both are steps on the way to the same minimum
    else:
        assert missing(ACTS, result._replace(codes=codes)) <= missing(ACTS, result) + 1e-12


@each_method
def test_computed_in_float32_at_least(name):
    """Nothing of bfloat16 stays, and nothing is promoted to float64 on the way, though it is on."""
    result = jax.eval_shape(fit(name), jax.ShapeDtypeStruct((24, 8), jnp.bfloat16), key=KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(fitted(name))} == {jnp.dtype(jnp.float64)}


def test_jit_is_eager_and_the_key_decides():
    """Eagerly each operation compiles by itself; of the methods k-means has fewest, and draws its seeds by the key."""
    eager = concepts.kmeans(jnp.asarray(ACTS), 3, key=KEY, num_steps=5)
    np.testing.assert_allclose(eager.dictionary.atoms, fitted("kmeans").dictionary.atoms, atol=1e-12)
    draws = [tuple(seeds(jnp.asarray(ACTS), 3, key=jax.random.key(seed)).tolist()) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


# --- NMF


@pytest.mark.parametrize("name", NONNEGATIVE)
def test_planted_parts_are_found(name):
    """Half of the entries of sparse parts are near zero, which makes the factorization all but unique."""
    acts, atoms = parts(300, 40, 4)
    result = fit(name, rank=4, num_steps=200)(acts, key=KEY)
    assert matched(result.dictionary.atoms, atoms).min() > 0.995


def test_separable_parts_are_found_exactly():
    """Each atom is alone in a row, and in a channel: there is one factorization, and it is found to 1e-4."""
    rng = np.random.default_rng(1)
    atoms = np.concatenate([np.eye(3), rng.gamma(0.5, size=(3, 17))], axis=1)
    codes = np.concatenate([np.eye(3), rng.gamma(0.5, size=(40, 3))])
    acts = codes @ atoms
    result = fit("nmf", num_steps=1000)(acts, key=KEY)
    np.testing.assert_allclose(matched(result.dictionary.atoms, atoms), 1, atol=1e-4)
    assert missing(acts, result) < 1e-4


def test_canonical_is_idempotent_and_keeps_the_product():
    rng = np.random.default_rng(2)
    codes, atoms = jnp.asarray(rng.random((9, 4))), jnp.asarray(rng.normal(size=(4, 5)))
    once = canonical(codes, atoms, jnp.zeros(1), concepts.nonnegative)
    twice = canonical(once.codes, once.dictionary.atoms, jnp.zeros(1), concepts.nonnegative)
    np.testing.assert_allclose(once.codes @ once.dictionary.atoms, codes @ atoms, atol=1e-13)
    np.testing.assert_allclose(twice.dictionary.atoms, once.dictionary.atoms, atol=1e-14)
    np.testing.assert_allclose(twice.codes, once.codes, rtol=1e-14)


def test_dead_concepts_are_reported():
    """Two parts for three concepts: one has no energy, and stays in the result, last."""
    acts = jnp.asarray(np.array([[1.0, 0, 0, 0], [0, 0, 2.0, 0], [3.0, 0, 0, 0], [0, 0, 1.0, 0]]))
    result = fit("nmf", num_steps=100)(acts, key=KEY)
    assert result.energies[-1] < 1e-6 * result.energies[0]
    assert missing(acts, result) < 1e-6
    assert jnp.isfinite(result.dictionary.atoms).all()


def test_no_hidden_penalty():
    """A matrix of rank 1 is met to rounding: an l2 of any weight would shrink it."""
    acts = jnp.outer(jnp.arange(1.0, 7.0), jnp.array([3.0, 0.0, 4.0]))
    result = fit("nmf", rank=1)(acts, key=KEY)
    np.testing.assert_allclose(decode(result.dictionary, result.codes), acts, atol=1e-12)


def test_semi_nmf_explains_signed_activations():
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(3, 20))
    acts = jnp.asarray(rng.gamma(0.5, size=(200, 3)) @ atoms)
    result = fit("semi_nmf", num_steps=500)(acts, key=KEY)
    assert missing(acts, result) < 1e-2
    assert (result.codes >= 0).all()


def test_semi_nmf_of_a_lower_rank_than_asked_is_finite():
    """Codes of ten concepts for data of rank 3 are dependent: their Gram matrix has rounding for eigenvalues."""
    with jax.enable_x64(False):
        rng = np.random.default_rng(5)
        acts = np.abs(rng.normal(size=(16, 500, 2))) @ np.abs(rng.normal(size=(16, 2, 32)))
        fit_all = jax.jit(jax.vmap(partial(concepts.semi_nmf, rank=10, num_steps=30)))
        result = fit_all(jnp.asarray(acts, jnp.float32), key=jax.random.split(KEY, 16))
        assert all(jnp.isfinite(x).all() for x in (result.codes, result.dictionary.atoms, result.errors))
        assert (result.errors[:, -1] <= result.errors[:, 0]).all()


# --- archetypes, components, clusters, sparse codes


def test_archetypes_reach_the_vertices():
    """Corners among their mixtures are found, as points: their weights are vertices of the simplex."""
    rng = np.random.default_rng(4)
    corners = np.array([[0.0, 5, 1], [4.0, 1, 1], [1.0, 1, 6], [5.0, 5, 5]])
    mixtures = np.concatenate([np.eye(4), rng.dirichlet(np.ones(4), size=60)])
    result = fit("archetypal", rank=4, num_steps=200)(jnp.asarray(mixtures @ corners), key=KEY)
    found = np.asarray(result.dictionary.atoms)
    away = np.linalg.norm(found[:, None] - corners[None], axis=-1)
    assert away.min(axis=0).max() < 1e-2
    np.testing.assert_allclose(result.codes.sum(axis=1), 1, atol=1e-13)


def test_principal_components_are_the_singular_vectors():
    rng = np.random.default_rng(5)
    acts = (rng.normal(size=(100, 4)) * [8, 4, 2, 1]) @ rng.normal(size=(4, 12)) + 3
    _, s, vt = np.linalg.svd(acts - acts.mean(axis=0), full_matrices=False)
    result = fit("pca")(jnp.asarray(acts), key=KEY)
    np.testing.assert_allclose(np.abs(np.sum(np.asarray(result.dictionary.atoms) * vt[:3], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(result.energies, s[:3] ** 2, rtol=1e-5)
    np.testing.assert_allclose(result.dictionary.mean, acts.mean(axis=0), rtol=1e-5)


def test_independent_components_are_unmixed():
    """Uniform sources, known up to order and sign; with n samples the estimate errs by about n^-1/2 = 0.02."""
    rng = np.random.default_rng(6)
    sources, mixing = rng.uniform(-1, 1, size=(2000, 3)), rng.normal(size=(3, 8))
    result = fit("ica", num_steps=100)(jnp.asarray(sources @ mixing + 1), key=KEY)
    cosines = np.abs(np.corrcoef(np.asarray(result.codes).T, sources.T)[:3, 3:])
    assert cosines[linear_sum_assignment(-cosines)].min() > 0.99


def test_kmeans_is_a_fixed_point():
    """Each row belongs to the nearest mean, and each mean is that of its rows."""
    result = fit("kmeans", num_steps=50)(ACTS, key=KEY)
    codes, atoms = np.asarray(result.codes), np.asarray(result.dictionary.atoms)
    away = np.linalg.norm(ACTS[:, None] - atoms[None], axis=-1)
    np.testing.assert_array_equal(codes.argmax(axis=1), away.argmin(axis=1))
    np.testing.assert_array_equal(codes.sum(axis=1), 1)
    np.testing.assert_allclose(codes.T @ ACTS / codes.sum(axis=0)[:, None], atoms, atol=1e-5)


def test_sparse_dictionary_finds_planted_atoms():
    """Two of eight atoms a row, in ten channels: found from the rows alone."""
    rng = np.random.default_rng(7)
    atoms = rng.normal(size=(8, 16))
    codes = np.where(rng.random((400, 8)).argsort(axis=1) < 2, rng.normal(size=(400, 8)), 0)
    result = fit("sparse_dictionary", rank=8, num_steps=60)(jnp.asarray(codes @ atoms), key=KEY)
    found = np.abs(matched(np.concatenate([result.dictionary.atoms, -result.dictionary.atoms]), atoms))
    assert np.median(found) > 0.999
    assert ((result.codes != 0).sum(axis=1) <= 2).all()


# --- bad input


@pytest.mark.parametrize("name", NONNEGATIVE)
def test_negative_activations_name_the_layer_and_offer_semi_nmf(name):
    with pytest.raises(ValueError, match=r"of layer 'block4' are negative down to -1,.*use semi_nmf"):
        getattr(concepts, name)(jnp.array([[1.0, -1.0], [1.0, 1.0]]), 1, key=KEY, layer="block4")


@pytest.mark.parametrize(
    ("acts", "rank", "error", "match"),
    [
        (jnp.ones((2, 5)), 3, ValueError, "rank 3 is above what 2 rows of 5 channels can hold"),
        (jnp.ones((2, 5)), 0, ValueError, "rank is 0, expected a positive integer"),
        (jnp.zeros((4, 5)), 2, ValueError, "activations are all zero"),
        (jnp.zeros((4, 5)).at[0].set(1), 2, ValueError, "2 concepts from 1 rows that are not zero"),
        (jnp.full((4, 5), jnp.nan), 2, ValueError, "activations have NaN or infinite values"),
        (jnp.ones((4, 5), jnp.int32), 2, TypeError, "activations have dtype int32, expected floating-point values"),
        (jnp.ones((4, 2, 2, 5)), 2, ValueError, r"reshape feature maps \(n, h, w, d\) to \(n \* h \* w, d\)"),
    ],
)
@each_method
def test_bad_input(name, acts, rank, error, match):
    method = getattr(concepts, name)
    method = getattr(method, "__wrapped__", method)  # without the checks of types, which only tests have
    with pytest.raises(error, match=f"{name}: .*{match}"):
        method(acts, rank, key=KEY)
