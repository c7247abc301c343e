"""Sparse autoencoders: what is kept, what is differentiated, what is trained, and what they are as dictionaries."""

import functools
import itertools
import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads

from experiments import sae_activations as experiment
from sparks_jax.concepts import (
    Archetypes,
    Atoms,
    BatchTopKEncoder,
    JumpReLUEncoder,
    LinearEncoder,
    Pursuit,
    SparseAutoencoder,
    TopKEncoder,
    decode,
    encode,
    matching_pursuit,
    quality,
    standardization,
)
from sparks_jax.concepts import sae as training
from sparks_jax.concepts import sae_encoders as encoders
from sparks_jax.concepts.sae import constrained
from sparks_jax.concepts.sae_codes import Codes, decode_sparse, densify
from sparks_jax.concepts.sae_losses import AUXK, auxiliary_loss, l0_penalty, l1_penalty, reconstruction_loss

forward, observed = jax.jit(training.forward), jax.jit(training.observed)
N, D, K = 12, 6, 10
KERNELS = [encoders.rectangle, encoders.triangle, encoders.epanechnikov, encoders.quartic, encoders.gaussian]


def make(kind, seed=0):
    """An autoencoder of each kind, its biases and offset not zero."""
    return nnx.merge(*nnx.split(built(kind, seed)), copy=True)


@functools.cache
def built(kind, seed):
    return jax.jit(partial(build, kind, seed))()


def build(kind, seed):
    rngs = nnx.Rngs(seed)
    points = jax.random.normal(rngs.params(), (2 * K, D))
    atoms = Archetypes(points, K, rngs=rngs) if kind == "archetypal" else Atoms(D, K, rngs=rngs)
    encoder = {
        "relu": lambda: LinearEncoder(atoms()),
        "topk": lambda: TopKEncoder(atoms(), k=3),
        "batch_topk": lambda: BatchTopKEncoder(atoms(), k=3),
        "jumprelu": lambda: JumpReLUEncoder(atoms(), threshold=0.3, bandwidth=0.5),
        "pursuit": lambda: Pursuit(3),
        "archetypal": lambda: TopKEncoder(atoms(), k=3),
    }[kind]()
    if kind != "pursuit":
        encoder.bias[...] = 0.1 * jax.random.normal(rngs.params(), (K,))
    sae = SparseAutoencoder(atoms, encoder, mean=jnp.arange(D) / D, scale=2.0)
    sae.offset[...] = 0.1 * jax.random.normal(rngs.params(), (D,))
    return sae


KINDS = ("relu", "topk", "batch_topk", "jumprelu", "pursuit", "archetypal")


@pytest.fixture
def acts():
    return 2 * jax.random.normal(jax.random.key(1), (N, D))


def loss(sae, acts, dead_after=1):
    """All terms: reconstruction, what the encoder asks for, and AuxK."""
    found = training.forward(sae, acts)
    total = reconstruction_loss(found) + AUXK * auxiliary_loss(sae, found, dead_after=dead_after, num=2)
    total += 0.01 * (l0_penalty(sae, found) if isinstance(sae.encoder, JumpReLUEncoder) else l1_penalty(found))
    return total, found


def gradient(sae, value):
    """`value(sae)`, and its gradient in the parameters as an autoencoder."""
    structure, params, rest = nnx.split(sae, nnx.Param, ...)
    run = jax.jit(jax.value_and_grad(lambda params: value(nnx.merge(structure, params, rest, copy=True))))
    found, slope = run(params)
    return found, nnx.merge(structure, slope, rest, copy=True)


def train_step(optimizer, structure, params, rest, momenta, acts):
    """One step as an experiment has it."""
    value = lambda params: loss(nnx.merge(structure, params, rest, copy=True), acts)
    (total, found), slope = jax.value_and_grad(value, has_aux=True)(params)
    updates, momenta = optimizer.update(slope, momenta, params)
    sae = nnx.merge(structure, optax.apply_updates(params, updates), rest, copy=True)
    return nnx.split(training.observed(constrained(sae), found), nnx.Param, ...)[1:], momenta, total


# --- sparse codes ---


def test_sparse_products_are_the_dense_ones(key):
    """Decoding and its two derivatives; an atom that comes twice counts twice."""
    codes = Codes(jax.random.normal(key, (N, 3)), jax.random.randint(key, (N, 3), 0, K).at[:, 1].set(0).at[:, 2].set(0))
    atoms, cotangent = jax.random.normal(key, (K, D)), jax.random.normal(jax.random.key(1), (N, D))
    dense = lambda values, atoms: densify(Codes(values, codes.indices), K) @ atoms
    sparse = lambda values, atoms: decode_sparse(Codes(values, codes.indices), atoms)

    @jax.jit
    def products(values, atoms):
        results = [jax.vjp(f, values, atoms) for f in (sparse, dense)]
        return [(value, *back(cotangent)) for value, back in results]

    for a, b in zip(*products(codes.values, atoms), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_topk_differentiates_what_it_keeps_and_nothing_else(acts):
    """The sparse rules give the gradient of the dense computation, and 0 for a concept that no row keeps."""
    sae = make("topk")

    def dense(sae):
        rows = (acts - sae.mean[...][None]) / sae.scale[...] - sae.offset[...][None]
        return jnp.mean((rows - sae.encoder(sae.atoms(), rows) @ sae.atoms()) ** 2)

    sparse = lambda sae: reconstruction_loss(forward(sae, acts))
    (got, slope), (expected, dense_slope) = gradient(sae, sparse), gradient(sae, dense)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    both = (jax.tree.leaves(nnx.state(each, nnx.Param)) for each in (slope, dense_slope))
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    few = forward(sae, acts[:1])
    _, slope = gradient(sae, lambda sae: reconstruction_loss(forward(sae, acts[:1])))
    kept = np.isin(np.arange(K), few.codes.indices[few.codes.values > 0])
    assert 0 < kept.sum() <= 3
    for rows in (slope.encoder.kernel[...], slope.encoder.bias[...][:, None], slope.atoms.rows[...]):
        np.testing.assert_array_equal(np.any(rows != 0, 1), kept)


def test_topk_keeps_the_largest_of_each_row(acts):
    sae = make("topk")
    found = forward(sae, acts)
    expected = np.sort(np.maximum(found.pre, 0), 1)[:, ::-1][:, :3]
    np.testing.assert_array_equal(found.codes.values, expected)
    np.testing.assert_allclose(densify(found.codes, K), sae.encode(acts), rtol=1e-5, atol=1e-6)


# --- BatchTopK ---


@pytest.mark.parametrize("ties", [False, True])
def test_batch_topk_keeps_k_a_row_on_average(key, ties):
    """Exactly 3 · 12 entries and the largest of all, however they are spread; of equal ones, enough and no more."""
    pre = jnp.abs(jax.random.normal(key, (N, K))) * jnp.arange(1, N + 1)[:, None]
    pre = jnp.ceil(pre) if ties else pre
    codes = encoders.batch_top_k(pre, 3)
    assert (codes > 0).sum() == 3 * N
    np.testing.assert_array_equal(np.sort(codes[codes > 0]), np.sort(pre.ravel())[-3 * N :])
    assert len(set((codes > 0).sum(1).tolist())) > 1


def test_batch_topk_remembers_its_threshold(acts):
    """The running mean of the smallest entry kept; codes of a row depend on no other row; the state holds it."""
    sae = make("batch_topk")
    least = []
    for i in range(3):
        found = forward(sae, acts * (i + 1))
        least.append(found.codes[found.codes > 0].min())
        sae = observed(sae, found)
    m = sae.encoder.momentum
    expected = m * (m * least[0] + (1 - m) * least[1]) + (1 - m) * least[2]
    np.testing.assert_allclose(sae.encoder.threshold[...], expected, rtol=1e-6)
    codes = sae.encode(acts)
    np.testing.assert_array_equal(codes > 0, forward(sae, acts).pre > expected)
    np.testing.assert_allclose(sae.encode(acts[:1]), codes[:1], rtol=1e-5)
    empty = observed(sae, forward(sae, acts)._replace(codes=jnp.zeros((N, K))))
    assert empty.encoder.threshold[...] == sae.encoder.threshold[...]
    saved = nnx.to_pure_dict(nnx.state(sae))
    fresh = make("batch_topk", seed=1)
    assert not np.array_equal(fresh.encode(acts) > 0, codes > 0)
    nnx.update(fresh, saved)
    np.testing.assert_array_equal(fresh.encode(acts), codes)


# --- JumpReLU ---


def smoothed_slopes(kernel, jump, heaviside, theta=0.7, width=0.25):
    """Checks both threshold gradients on a fine grid of pre-activations against differences of kernel-smoothed sums.

    The mean of f(p, s) over thresholds s spread around θ with density K((s - θ) / ε) / ε is smooth in θ, and central
    differences of step h give its derivative up to h². The gradients have to be that derivative, for z = p H(p - θ)
    once the odd moments of K cancel over p, as they do on a grid that is symmetric about θ.
    """
    nodes = np.linspace(-8, 8, 16001)
    density = np.asarray(kernel(jnp.asarray(nodes))) / np.trapezoid(np.asarray(kernel(jnp.asarray(nodes))), nodes)
    grid = theta + np.linspace(-2, 2, 4001)

    def smooth(f, at):
        """∫ K(u) Σ_p f(p, at + ε u) du, with the sums over p from the right, by interpolation."""
        values = f(grid)
        tails = np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
        edges = np.concatenate([grid, [grid[-1] + 1e-3]])
        return np.trapezoid(density * np.interp(at + width * nodes, edges, tails), nodes)

    for gate, f in ((jump, lambda p: p), (heaviside, np.ones_like)):
        h = 1e-3
        expected = (smooth(f, theta + h) - smooth(f, theta - h)) / (2 * h)
        pre = jnp.asarray(grid, jnp.float32)[:, None]
        got = jax.grad(lambda t: gate(pre, t, width, kernel).sum())(jnp.full((1, 1), theta)).item()
        np.testing.assert_allclose(got, expected, rtol=5e-3)  # a grid of 1e-3 in a bandwidth of 0.25


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_threshold_gradients_are_those_of_the_smoothed_jump(kernel):
    nodes = jnp.linspace(-8, 8, 16001)
    np.testing.assert_allclose(np.trapezoid(kernel(nodes), nodes), 1, rtol=1e-3)
    smoothed_slopes(kernel, encoders.jump, encoders.heaviside)


def test_a_threshold_gradient_divided_by_the_bandwidth_again_is_caught():
    again = lambda kernel, width: lambda u: kernel(u) / width
    wrong = [
        lambda p, t, width, kernel, f=f: f(p, t, width, again(kernel, width))
        for f in (encoders.jump, encoders.heaviside)
    ]
    for gates in ((wrong[0], encoders.heaviside), (encoders.jump, wrong[1])):
        with pytest.raises(AssertionError):
            smoothed_slopes(encoders.rectangle, *gates)


def test_jumprelu_in_its_autoencoder(acts):
    """Gradients in log θ are those in θ times θ; the L0 penalty counts concepts, and moves thresholds alone."""
    sae = make("jumprelu")
    found = forward(sae, acts)
    np.testing.assert_allclose(l0_penalty(sae, found), (found.codes > 0).sum(1).mean(), rtol=1e-6)
    _, slope = gradient(sae, lambda sae: l0_penalty(sae, forward(sae, acts)))
    inside = np.abs((found.pre - 0.3) / 0.5) < 0.5
    np.testing.assert_allclose(slope.encoder.log_threshold[...], -0.3 / 0.5 * inside.sum(0) / N, rtol=1e-5)
    assert not np.any(slope.encoder.kernel[...])
    assert not np.any(slope.atoms.rows[...])
    with pytest.raises(TypeError, match="LinearEncoder learns no thresholds"):
        l0_penalty(make("relu"), found)


def test_l1(acts):
    found = forward(make("relu"), acts)
    np.testing.assert_allclose(l1_penalty(found), np.maximum(found.pre, 0).sum() / N, rtol=1e-6)
    sparse = forward(make("topk"), acts)
    np.testing.assert_allclose(l1_penalty(sparse), densify(sparse.codes, K).sum() / N, rtol=1e-6)


# --- AuxK ---


@pytest.mark.parametrize("kind", KINDS)
def test_auxk_moves_dead_concepts_alone(kind, acts):
    """The residual is held: no gradient reaches the offset, nor what belongs to a concept in use."""
    sae = make(kind)
    dead = np.arange(K) % 3 == 0
    sae.idle[...] = jnp.where(dead, 5, 0)
    auxiliary = lambda sae: auxiliary_loss(sae, forward(sae, acts), dead_after=5, num=2)
    value, slope = gradient(sae, auxiliary)
    assert value > 0
    assert not np.any(slope.offset[...])
    parts = [slope.atoms.weights[...] if kind == "archetypal" else slope.atoms.rows[...]]
    parts += [] if kind == "pursuit" else [slope.encoder.kernel[...]]
    for rows in parts:
        moved = np.any(rows != 0, 1)
        assert moved.any()
        assert not moved[~dead].any()
    if kind == "jumprelu":
        assert not np.any(slope.encoder.log_threshold[...])


def test_auxk_is_nothing_while_all_are_alive(acts):
    sae = make("topk")
    sae.idle[...] = jnp.full(K, 4)
    assert jax.jit(auxiliary_loss, static_argnames="dead_after")(sae, forward(sae, acts), dead_after=5) == 0


def test_auxk_by_hand(acts):
    """The two largest positive pre-activations of dead concepts, decoded, against the residual."""
    sae = make("relu")
    dead = np.arange(K) < 4
    sae.idle[...] = jnp.where(dead, 9, 0)
    found = forward(sae, acts)
    pre = np.where(dead, found.pre, -np.inf)
    second = np.sort(pre, 1)[:, -2:-1]
    codes = np.where(pre >= second, np.maximum(pre, 0), 0)
    error = found.rows - found.reconstruction - codes @ sae.atoms()
    np.testing.assert_allclose(auxiliary_loss(sae, found, dead_after=9, num=2), np.mean(error**2), rtol=1e-5)


def test_concepts_are_counted_dead_and_alive(acts):
    sae = make("topk")
    used = np.zeros(K, bool)
    for i in range(3):
        found = forward(sae, acts[4 * i : 4 * i + 1])
        sae = observed(sae, found)
        used |= np.isin(np.arange(K), found.codes.indices[found.codes.values > 0])
    np.testing.assert_array_equal(sae.idle[...] == 3, ~used)


# --- atoms ---


def test_gradients_of_atoms_are_tangent_and_steps_end_on_the_sphere(acts):
    sae = make("topk")
    slope = gradient(sae, lambda sae: reconstruction_loss(forward(sae, acts)))[1].atoms.rows[...]
    # Products of numbers below 1: a few roundings of the largest.
    np.testing.assert_allclose(jnp.sum(slope * sae.atoms(), 1), 0, atol=1e-6 * np.abs(slope).max() * D)
    optimizer = optax.adam(0.1)
    structure, params, rest = nnx.split(sae, nnx.Param, ...)
    run = jax.jit(partial(train_step, optimizer, structure))
    (params, rest), *_ = run(params, rest, optimizer.init(params), acts)
    after = nnx.merge(structure, params, rest)
    assert np.abs(after.atoms.rows[...] - sae.atoms.rows[...]).max() > 0.05
    np.testing.assert_allclose(jnp.linalg.norm(after.atoms.rows[...], axis=1), 1, rtol=1e-6)


def test_archetypes_reach_their_points(key):
    """Descent towards some of the points ends at them exactly, one weight 1 and all others 0: no softmax in between."""
    points = jax.random.normal(key, (8, D))
    atoms = Archetypes(points, 5, relaxation=0.0, rngs=nnx.Rngs(0))
    structure, params, rest = nnx.split(atoms, nnx.Param, ...)
    target = points[jnp.array([3, 1, 4, 1, 5])]

    def descend(params, _):
        error = lambda params: jnp.sum((nnx.merge(structure, params, rest, copy=True)() - target) ** 2)
        slope = jax.grad(error)(params)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, slope)
        params["log_scale"][...] = jnp.zeros(())
        moved = nnx.merge(structure, params, rest, copy=True).constrained()
        return nnx.state(moved, nnx.Param), None

    params, _ = jax.jit(lambda p: jax.lax.scan(descend, p, length=400))(params)
    expected = jnp.eye(8)[jnp.array([3, 1, 4, 1, 5])]
    np.testing.assert_allclose(params["weights"][...], expected, atol=1e-6)


def test_archetypes_keep_their_constraints(key):
    atoms = Archetypes(jax.random.normal(key, (8, D)), 5, relaxation=0.5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(atoms.weights[...].sum(1), 1, rtol=1e-6)
    atoms.weights[...] = jax.random.normal(key, (5, 8))
    atoms.shifts[...] = jax.random.normal(key, (5, D)) * jnp.array([0, 0.01, 1, 1, 1])[:, None]
    before = atoms.shifts[...]
    atoms.constrained()
    assert np.all(atoms.weights[...] >= 0)
    np.testing.assert_allclose(atoms.weights[...].sum(1), 1, rtol=1e-6)
    lengths = np.linalg.norm(atoms.shifts[...], axis=1)
    np.testing.assert_allclose(lengths, np.minimum(np.linalg.norm(before, axis=1), 0.5), rtol=1e-6)
    other = Archetypes(atoms.points[...], 5, rngs=nnx.Rngs(1))
    assert not np.allclose(other.weights[...], Archetypes(atoms.points[...], 5, rngs=nnx.Rngs(0)).weights[...])


# --- matching pursuit ---


def test_pursuit_of_orthonormal_atoms_finds_the_codes(key):
    atoms = jnp.linalg.qr(jax.random.normal(key, (D, D)))[0]
    codes = jnp.where(
        jax.random.uniform(key, (N, D)) < 0.5, jax.random.uniform(jax.random.key(1), (N, D), minval=0.1), 0
    )
    found = matching_pursuit(atoms, codes @ atoms, num_steps=D)
    np.testing.assert_allclose(densify(found, D), codes, atol=1e-6)
    np.testing.assert_allclose(Pursuit(D)(3 * atoms, codes @ atoms), codes / 3, atol=1e-6)


def test_pursuit_never_grows_the_residual(acts):
    """Nor takes a negative code, and it stops where nothing points towards what is left."""
    atoms = jax.random.normal(jax.random.key(5), (K, D))
    run = jax.jit(matching_pursuit, static_argnames="num_steps")
    found = run(atoms, acts, num_steps=12)
    values, indices = map(np.asarray, found)
    steps = [(values[:, :i], indices[:, :i]) for i in range(13)]
    decoded = [np.einsum("nj,njd->nd", values, np.asarray(atoms)[indices]) for values, indices in steps]
    norms = np.stack([np.linalg.norm(acts - each, axis=1) for each in decoded])
    assert np.all(np.diff(norms, axis=0) <= 1e-6 * norms[0])
    assert np.all(found.values >= 0)
    assert not np.any(run(atoms, jnp.zeros((N, D)), num_steps=12).values)
    assert not np.any(run(jnp.ones((K, D)), -jnp.ones((N, D)), num_steps=12).values)
    allowed = jnp.arange(K) < 2
    some = run(atoms, acts, num_steps=3, allowed=allowed)
    assert set(some.indices[some.values > 0].tolist()) <= {0, 1}


def test_pursuit_is_differentiable_in_atoms_and_rows(key):
    """Against central differences in double precision, where the choice of atoms does not change."""
    with jax.enable_x64(True):
        atoms, rows = (
            jax.random.normal(key, (4, 3), jnp.float64),
            jax.random.normal(jax.random.key(1), (2, 3), jnp.float64),
        )
        codes = lambda atoms, rows: densify(matching_pursuit(atoms, rows, num_steps=3), 4)
        value = jax.jit(lambda atoms, rows: jnp.sin(codes(atoms, rows)).sum())
        check_grads(value, (atoms, rows), order=1, modes=("rev",), rtol=1e-6, atol=1e-6)


# --- as dictionaries, under jit, in both modes of nnx ---


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_dictionary(kind, acts):
    """`encode` and `decode` of the dictionary are those of the formula, on rows or grids; weights do not recompile."""
    sae = make(kind)
    sae.mean[...] = sae.mean[...] + 1
    traces = []

    @jax.jit
    def through(sae, dictionary, acts):
        traces.append(1)
        codes = encode(dictionary, acts)
        grid = sae.encode(acts.reshape(3, 4, D)).reshape(N, K)
        slope = jax.grad(lambda acts: encode(dictionary, acts).sum())(acts)
        rows = (acts - sae.mean[...][None]) / 2 - sae.offset[...][None]
        return codes, grid, sae.encoder(sae.atoms(), rows), decode(dictionary, codes), sae(acts), sae.atoms(), slope

    codes, grid, by_hand, decoded, whole, atoms, slope = through(sae, sae.dictionary(), acts)
    np.testing.assert_allclose(codes, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(grid, codes)
    expected = np.asarray(sae.mean[...]) + 2 * (np.asarray(sae.offset[...]) + np.asarray(codes) @ np.asarray(atoms))
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole, decoded, rtol=1e-6)
    assert np.isfinite(slope).all()
    assert np.any(slope)
    other = make(kind, seed=3)
    through(other, other.dictionary(), acts)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_in_both_modes_of_nnx(kind, acts):
    """A step with every term of the loss, half of the concepts dead: the same program, and it changes parameters."""
    sae = make(kind)
    sae.idle[...] = jnp.arange(K) % 2
    optimizer = optax.sgd(0.1, momentum=0.9)
    programs = []
    for mode in (True, False):
        with nnx.set_graph_mode(mode):
            structure, params, rest = nnx.split(sae, nnx.Param, ...)
            traced = jax.jit(partial(train_step, optimizer, structure)).trace(
                params, rest, optimizer.init(params), acts
            )
            programs.append(str(traced.jaxpr))
    assert programs[0] == programs[1]
    (after, _), _, value = traced.lower().compile()(params, rest, optimizer.init(params), acts)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (after, params)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_same_under_jit(kind, acts):
    sae = make(kind)
    for a, b in zip(*map(jax.tree.leaves, (training.forward(sae, acts), forward(sae, acts))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_standardisation_makes_units_not_matter(acts):
    """Mean 0 and mean square 1; the same activations in other units have the same codes."""
    mean, scale = standardization(acts)
    rows = (acts - mean[None]) / scale
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose((rows**2).mean(), 1, rtol=1e-5)
    atoms = Atoms(D, K, rngs=nnx.Rngs(0))
    first = SparseAutoencoder(atoms, TopKEncoder(atoms(), k=3), mean=mean, scale=scale)
    other = 100 * acts + 7
    mean, scale = standardization(other)
    second = SparseAutoencoder(atoms, TopKEncoder(atoms(), k=3), mean=mean, scale=scale)
    np.testing.assert_allclose(second.encode(other), first.encode(acts), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(second(other), 100 * first(acts) + 7, rtol=1e-3, atol=1e-2)


def test_it_recovers_a_planted_dictionary():
    """Rows that are positive sums of 3 of 24 random atoms in 16 dimensions: of 48 concepts one becomes each of them.

    Random unit vectors in 16 dimensions have cosines of standard deviation 1/4, so that the best of 48 has one of 0.6;
    0.95 is no accident. Rows are drawn without noise, and a linear encoder that keeps 3 of 48 is wrong about some.
    """
    d, k, active, batch, steps = 16, 24, 3, 128, 1000
    rng = np.random.default_rng(0)
    planted = rng.standard_normal((k, d)).astype(np.float32)
    planted /= np.linalg.norm(planted, axis=1, keepdims=True)
    codes = np.zeros((8192, k), np.float32)
    which = rng.random(codes.shape).argpartition(active)[:, :active]
    np.put_along_axis(codes, which, rng.uniform(1, 2, which.shape).astype(np.float32), 1)
    acts = jnp.asarray(codes @ planted)
    train, held_out = acts[:-1024], acts[-1024:]
    mean, scale = standardization(train)
    atoms = Atoms(d, 2 * k, rngs=nnx.Rngs(1))
    sae = SparseAutoencoder(atoms, TopKEncoder(atoms(), k=active), mean=mean, scale=scale)
    structure, params, rest = nnx.split(sae, nnx.Param, ...)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def step(state, batch):
        params, rest, momenta = state

        def value(params):
            sae = nnx.merge(structure, params, rest, copy=True)
            found = training.forward(sae, train[batch])
            return reconstruction_loss(found) + AUXK * auxiliary_loss(sae, found, dead_after=50), found

        slope, found = jax.grad(value, has_aux=True)(params)
        updates, momenta = optimizer.update(slope, momenta)
        sae = nnx.merge(structure, optax.apply_updates(params, updates), rest, copy=True)
        return (*nnx.split(training.observed(constrained(sae), found), nnx.Param, ...)[1:], momenta), None

    batches = rng.integers(0, len(train), (steps, batch))
    state = params, rest, optimizer.init(params)
    params, rest, _ = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)[0])(state, batches)
    sae = nnx.merge(structure, params, rest)
    assert (sae.atoms() @ planted.T).max(0).min() > 0.95
    found = jax.jit(quality)(sae.dictionary(), held_out)
    assert found.r2 > 0.9
    assert found.l0 <= active


def test_quality_by_hand():
    """R² is 1 for what comes back whole, and 0 for the mean."""
    sae = make("relu")
    acts = jnp.array([[1.0] * D, [3.0] * D])
    sae.mean[...], sae.offset[...] = jnp.full(D, 2.0), jnp.zeros(D)
    sae.encoder.bias[...] = jnp.full(K, -1e3)
    found = jax.jit(quality)(sae.dictionary(), acts)
    assert (found.r2.item(), found.l0.item(), found.used.any().item()) == (0, 0, False)


def test_what_is_wrong_is_said():
    atoms = Atoms(D, K, rngs=nnx.Rngs(0))
    for k in (0, K + 1):
        with pytest.raises(ValueError, match=f"k is {k}, expected 1 to {K}"):
            TopKEncoder(atoms(), k=k)
    with pytest.raises(ValueError, match="num_steps is 0"):
        Pursuit(0)
    with pytest.raises(ValueError, match=r"activations have shape \(3, 5\), expected \(n, 6\)"):
        forward(make("topk"), jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="all the same"):
        standardization(jnp.ones((4, D)))


# --- the experiment that trains them ---


def test_an_interrupted_run_ends_where_a_whole_one_does(tmp_path, monkeypatch):
    """Killed in its third step after a checkpoint at the second: all parameters, the threshold and the counters."""
    rows = np.random.default_rng(0).standard_normal((40, D)).astype(np.float32)
    config = experiment.Config(kind="batch_topk", concepts=K, k=2, steps=4, batch=16, every=2)
    whole = experiment.train(replace(config, out=tmp_path / "whole"), rows, 0)
    batches = experiment.batches

    def killed(*args):
        yield from itertools.islice(batches(*args), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "batches", killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.train(replace(config, out=tmp_path / "killed"), rows, 0)
    monkeypatch.setattr(experiment, "batches", batches)
    after = experiment.train(replace(config, out=tmp_path / "killed"), rows, 0)
    assert whole.encoder.threshold[...] > 0
    for a, b in zip(*(jax.tree.leaves(nnx.state(sae)) for sae in (whole, after)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_see_the_same_rows_wherever_they_start():
    """Each epoch is a permutation, and the rows of a step do not depend on the steps before it."""
    rows = np.arange(40)[:, None]
    config = experiment.Config(steps=7, batch=16)
    every = list(experiment.batches(config, rows, 3, 0))
    assert len(every) == 7
    assert len(np.unique(np.concatenate(every[2:4]))) == 32
    for start in (1, 2, 5, 7):
        later = list(experiment.batches(config, rows, 3, start))
        np.testing.assert_array_equal(np.array(later).reshape(-1), np.array(every[start:]).reshape(-1))


def test_stored_activations_are_checked(tmp_path):
    config = experiment.Config(out=tmp_path, images=4)
    np.save(tmp_path / "activations.npy", np.arange(24.0).reshape(4, 2, 3))
    about = {"network": "glyphs", "stage": None, "images": 4}
    about["sha256"] = experiment.checksum(tmp_path / "activations.npy")
    (tmp_path / "activations.json").write_text(json.dumps(about))
    acts = experiment.stored(config)
    assert isinstance(acts, np.memmap)
    assert acts[3, 1, 2] == 23
    with pytest.raises(ValueError, match="give another folder"):
        experiment.stored(replace(config, images=5))
    with (tmp_path / "activations.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    with pytest.raises(ValueError, match="is not the file that was written"):
        experiment.stored(config)
