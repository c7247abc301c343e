"""Codes of new activations: the minimisers that they claim to be, and the derivatives of those minimisers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.optimize import nnls as scipy_nnls

from sparks_jax import concepts
from sparks_jax.concepts import Dictionary, decode, encode

EPS = float(jnp.finfo(jnp.float32).eps)
RNG = np.random.default_rng(0)
ATOMS = RNG.gamma(0.5, size=(4, 12))
ACTS = RNG.gamma(0.5, size=(10, 12)) + RNG.normal(size=(10, 12))
nonnegative = jax.jit(concepts.nonnegative)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def dictionary(atoms, encoder, mean=0.0, scale=1.0):
    atoms = jnp.asarray(atoms)
    return Dictionary(
        atoms, jnp.full(atoms.shape[1], mean, atoms.dtype), jnp.asarray(scale, atoms.dtype), Partial(encoder)
    )


def central(f, x, step=1e-6):
    """Central differences of a scalar function; on a quadratic they err by rounding alone, 1e-16 / 1e-6."""
    steps = step * jnp.eye(x.size).reshape(-1, *x.shape)
    up, down = (jax.jit(jax.vmap(f))(x[None] + sign * steps) for sign in (1, -1))
    return ((up - down) / (2 * step)).reshape(x.shape)


def expected_nonnegative():
    return np.stack([scipy_nnls(ATOMS.T, a)[0] for a in ACTS])


# --- non-negative least squares


def test_nonnegative_against_scipy_in_float64(double):
    got = nonnegative(jnp.asarray(ATOMS), jnp.asarray(ACTS))
    assert (got == 0).any()
    assert (got > 0).any()
    np.testing.assert_allclose(got, expected_nonnegative(), atol=1e-8)


def test_nonnegative_against_scipy_in_float32():
    got = nonnegative(jnp.asarray(ATOMS, jnp.float32), jnp.asarray(ACTS, jnp.float32))
    np.testing.assert_allclose(got, expected_nonnegative(), atol=1e-4)


def test_conditions_of_karush_kuhn_and_tucker(double):
    """Of u and its multiplier one is zero, and neither is negative: with correlated atoms."""
    atoms = 1 + RNG.normal(size=(6, 50))
    acts = RNG.normal(size=(100, 50)) + 1
    u = nonnegative(jnp.asarray(atoms), jnp.asarray(acts))
    multiplier = (u @ atoms - acts) @ atoms.T
    assert np.abs(np.minimum(u, multiplier)).max() < 1e-6


def test_orthonormal_atoms_are_read_off():
    """D = I gives relu(a); orthonormal rows give relu(a D'), exactly so for I."""
    acts = jnp.asarray(ACTS, jnp.float32)
    np.testing.assert_array_equal(nonnegative(jnp.eye(12), acts), jnp.maximum(acts, 0))
    rows = jnp.asarray(np.linalg.qr(RNG.normal(size=(12, 4)))[0].T, jnp.float32)
    np.testing.assert_allclose(nonnegative(rows, acts), jnp.maximum(acts @ rows.T, 0), atol=20 * EPS)


def test_ridge_and_l1_are_the_problems_they_name(double):
    """A ridge is least squares with k more channels, of activation zero; l1 shifts the multipliers."""
    more = np.concatenate([ATOMS, 0.7**0.5 * np.eye(4)], axis=1)
    expected = np.stack([scipy_nnls(more.T, np.append(a, np.zeros(4)))[0] for a in ACTS])
    got = jax.jit(partial(concepts.nonnegative, ridge=0.7))(jnp.asarray(ATOMS), jnp.asarray(ACTS))
    np.testing.assert_allclose(got, expected, atol=1e-8)
    u = jax.jit(partial(concepts.nonnegative, l1=0.3))(jnp.asarray(ATOMS), jnp.asarray(ACTS))
    assert np.abs(np.minimum(u, (u @ ATOMS - ACTS) @ ATOMS.T + 0.3)).max() < 1e-8


def test_each_row_is_coded_for_itself():
    """Bit for bit: a hard row among them moves no other. And nothing is random."""
    atoms, acts = jnp.asarray(ATOMS, jnp.float32), jnp.asarray(ACTS, jnp.float32)
    harder = acts.at[0].set(1e3 * atoms.sum(axis=0))
    first, second = nonnegative(atoms, acts), nonnegative(atoms, harder)
    np.testing.assert_array_equal(first[1:], second[1:])
    np.testing.assert_array_equal(first, nonnegative(atoms, acts))


def test_dependent_and_empty_atoms_stay_finite():
    """Two equal atoms share what one would have; an atom of zeros has no code; rows of zeros have none."""
    one = jnp.asarray(ATOMS[:1], jnp.float32)
    atoms = jnp.concatenate([one, one, 0 * one])
    acts = jnp.concatenate([2 * one, 0 * one])
    u = nonnegative(atoms, acts)
    np.testing.assert_allclose(u[0, :2].sum(), 2, rtol=10 * EPS)
    assert (u[:, 2] == 0).all()
    assert (u[1] == 0).all()
    slope = jax.jit(jax.grad(lambda d, a: concepts.nonnegative(d, a).sum(), (0, 1)))(atoms, acts)
    assert all(jnp.isfinite(s).all() for s in slope)


# --- its derivative

WEIGHTS = RNG.normal(size=(10, 4))


def weighted(d, a):
    return jnp.vdot(jnp.asarray(WEIGHTS), concepts.nonnegative(d, a))


def test_derivative_against_central_differences(double):
    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)
    value = weighted
    by_atoms, by_acts = jax.jit(jax.grad(weighted, (0, 1)))(atoms, acts)
    np.testing.assert_allclose(by_acts, central(lambda a: value(atoms, a), acts), atol=1e-8)
    np.testing.assert_allclose(by_atoms, central(lambda d: value(d, acts), atoms), atol=1e-7)


def test_derivative_is_that_of_the_optimality_conditions(double):
    """[[G, -I], [diag(w), diag(u)]] (du, dw) = (D da, 0), w = u G - a D' the multiplier."""
    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)
    u = np.asarray(nonnegative(atoms, acts))
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda a: concepts.nonnegative(atoms, a[None])[0])))(acts)
    gram = ATOMS @ ATOMS.T
    for codes, act, got in zip(u, ACTS, jacobian, strict=True):
        multiplier = codes @ gram - act @ ATOMS.T
        system = np.block([[gram, -np.eye(4)], [np.diag(multiplier), np.diag(codes)]])
        expected = np.linalg.solve(system, np.concatenate([ATOMS, np.zeros((4, 12))]))[:4]
        np.testing.assert_allclose(got, expected, atol=1e-10)
        assert (np.asarray(got)[codes == 0] == 0).all()


def test_derivative_is_the_limit_of_unrolled_fista(double):
    """400 accelerated steps, differentiated through all of them, from the codes of zero."""
    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)

    def fista(d, a):
        gram, target = d @ d.T, a @ d.T
        rate = 1 / np.linalg.norm(ATOMS @ ATOMS.T, 2)

        def step(state, _):
            u, y, t = state
            after = jnp.maximum(y - rate * (y @ gram - target), 0)
            faster = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            ahead = after + (t - 1) / faster * (after - u)
            restart = jnp.vdot(y - after, after - u) > 0
            return (after, jnp.where(restart, after, ahead), jnp.where(restart, 1.0, faster)), None

        zero = jnp.zeros((10, 4))
        return jax.lax.scan(step, (zero, zero, jnp.ones(())), length=400)[0][0]

    unrolled = jax.jit(jax.grad(lambda d, a: jnp.vdot(jnp.asarray(WEIGHTS), fista(d, a)), (0, 1)))(atoms, acts)
    for got, expected in zip(jax.jit(jax.grad(weighted, (0, 1)))(atoms, acts), unrolled, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-8)


def test_derivative_of_any_order(double):
    """Codes are linear in activations near a point: no second derivative. They are not in the scale of D.

    u(s D) = u(D) / s, hence d²u/ds² = 2 u at s = 1.
    """
    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)
    along = lambda t: concepts.nonnegative(atoms, acts + t * jnp.ones_like(acts))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacfwd(along)))(0.0), 0, atol=1e-12)
    scaled = lambda s: concepts.nonnegative(s * atoms, acts)
    second = jax.jit(jax.jacfwd(jax.jacrev(lambda s: jnp.vdot(scaled(s), jnp.asarray(WEIGHTS)))))(1.0)
    np.testing.assert_allclose(second, 2 * np.vdot(nonnegative(atoms, acts), WEIGHTS), rtol=1e-9)


# --- few codes, mixtures, clusters, counts


def test_lasso_against_scikit_learn(double):
    from sklearn.linear_model import Lasso

    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)
    coded = jax.jit(partial(concepts.lasso, l1=0.8))
    # scikit-learn divides the squares by the number of channels.
    expected = Lasso(alpha=0.8 / 12, fit_intercept=False, tol=1e-14, max_iter=100000).fit(ATOMS.T, ACTS.T).coef_
    assert (expected == 0).any()
    np.testing.assert_allclose(coded(atoms, acts), expected, atol=1e-8)
    objective = lambda d, a: jnp.vdot(jnp.asarray(WEIGHTS), concepts.lasso(d, a, l1=0.8))
    value = objective
    by_acts = jax.jit(jax.grad(objective, 1))(atoms, acts)
    np.testing.assert_allclose(by_acts, central(lambda a: value(atoms, a), acts), atol=1e-8)


def by_sorting(x):
    """Held, Wolfe and Crowder 1974."""
    down = np.sort(x)[::-1]
    sums = (np.cumsum(down) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - sums[np.flatnonzero(down > sums)[-1]], 0)


def test_projection_on_the_simplex_against_sorting():
    x = np.concatenate([RNG.normal(size=(50, 9)) * s for s in (0.01, 1.0, 100.0)]).astype(np.float32)
    got = concepts.project_simplex(jnp.asarray(x))
    # Subtracting the greatest entry, of up to 300, rounds by a unit of it.
    np.testing.assert_allclose(got, np.stack([by_sorting(row.astype(np.float64)) for row in x]), atol=300 * EPS)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=10 * EPS)
    # Vertices, the point itself, and masked entries.
    np.testing.assert_array_equal(concepts.project_simplex(jnp.array([2.5, 0.0, 1.0])), [1, 0, 0])
    np.testing.assert_allclose(concepts.project_simplex(jnp.array([0.25, 0.75])), [0.25, 0.75], atol=EPS)
    np.testing.assert_array_equal(concepts.project_simplex(jnp.array([-jnp.inf, -7.0])), [0, 1])


def test_mixtures_are_the_nearest_points_of_the_hull(double):
    """Where u > 0 the slope is the same, elsewhere it is greater; points inside the hull are met."""
    atoms, acts = jnp.asarray(ATOMS), jnp.asarray(ACTS)
    coded = jax.jit(concepts.mixture)
    u = np.asarray(coded(atoms, acts))
    np.testing.assert_allclose(u.sum(axis=1), 1, atol=1e-12)
    slope = (u @ ATOMS - ACTS) @ ATOMS.T
    excess = slope - (u * slope).sum(axis=1, keepdims=True)
    assert (excess > -1e-9).all()
    assert np.abs(u * excess).max() < 1e-9
    inside = RNG.dirichlet(np.ones(4), size=10)
    np.testing.assert_allclose(coded(atoms, jnp.asarray(inside @ ATOMS)), inside, atol=1e-9)
    objective = lambda d, a: jnp.vdot(jnp.asarray(WEIGHTS), concepts.mixture(d, a))
    value = objective
    by_atoms, by_acts = jax.jit(jax.grad(objective, (0, 1)))(atoms, acts)
    np.testing.assert_allclose(by_acts, central(lambda a: value(atoms, a), acts), atol=1e-7)
    np.testing.assert_allclose(by_atoms, central(lambda d: value(d, acts), atoms), atol=1e-7)


def test_pursuit_against_scikit_learn():
    from sklearn.linear_model import orthogonal_mp

    atoms = RNG.normal(size=(20, 12))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    expected = orthogonal_mp(atoms.T, ACTS.T, n_nonzero_coefs=3).T
    got = jax.jit(partial(concepts.pursuit, num_nonzero=3))(
        jnp.asarray(atoms, jnp.float32), jnp.asarray(ACTS, jnp.float32)
    )
    assert ((got != 0).sum(axis=1) == 3).all()
    np.testing.assert_allclose(got, expected, atol=100 * EPS)
    with pytest.raises(ValueError, match="num_nonzero is 21, expected 1 to 20"):
        concepts.pursuit(jnp.asarray(atoms), jnp.asarray(ACTS), num_nonzero=21)


def test_poisson_codes_are_stationary():
    """Disjoint atoms share no counts: a code is the sum of its own. Otherwise the slope vanishes where u > 0."""
    atoms = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(concepts.poisson(atoms, jnp.array([[1.0, 3.0, 2.0]])), [[4, 2]], rtol=10 * EPS)
    atoms, acts = jnp.asarray(ATOMS, jnp.float32), jnp.asarray(np.abs(ACTS), jnp.float32)
    u = jax.jit(partial(concepts.poisson, num_steps=2000))(atoms, acts)
    slope = atoms.sum(axis=1)[None] - (acts / (u @ atoms)) @ atoms.T
    np.testing.assert_allclose(u * slope, 0, atol=1e-3)  # expectation-maximisation creeps near zero codes


# --- any dictionary


def test_encode_keeps_positions_and_undoes_decode():
    atoms = np.linalg.qr(RNG.normal(size=(12, 4)))[0].T.astype(np.float32)
    d = dictionary(atoms, concepts.least_squares, mean=0.5, scale=3.0)
    codes = jnp.asarray(RNG.normal(size=(2, 3, 5, 4)), jnp.float32)
    acts = decode(d, codes)
    assert acts.shape == (2, 3, 5, 12)
    np.testing.assert_allclose(encode(d, acts), codes, atol=100 * EPS)
    assert encode(d, acts[0, 0, 0]).shape == (4,)


def test_one_program_codes_by_any_dictionary_of_a_kind():
    """A dictionary crosses jit and vmap; another one of the same kind does not compile again."""
    acts = jnp.asarray(ACTS, jnp.float32)
    two = [
        dictionary(np.float32(ATOMS), concepts.nonnegative),
        dictionary(np.float32(ATOMS[::-1]), concepts.nonnegative),
    ]
    traced = []
    compiled = jax.jit(lambda d, a: traced.append(d) or encode(d, a))
    singles = [compiled(d, acts) for d in two]
    assert len(traced) == 1
    np.testing.assert_allclose(singles[0], singles[1][:, ::-1], atol=1e-5)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *two)
    both = jax.jit(jax.vmap(encode, (0, None)))(stacked, acts)
    np.testing.assert_allclose(both, jnp.stack(singles), atol=1e-5)
    np.testing.assert_array_equal(singles[0], nonnegative(two[0].atoms, acts))


def test_wrong_channels_are_named():
    d = dictionary(np.float32(ATOMS), concepts.nonnegative)
    with pytest.raises(ValueError, match=r"encode: activations have shape \(3, 5\), expected \(…, 12\)"):
        encode(d, jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"decode: codes have shape \(3, 5\), expected \(…, 4\)"):
        decode(d, jnp.ones((3, 5)))
