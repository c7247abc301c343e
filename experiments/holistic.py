"""Claim: where the head is affine, contributions are the best importance; no extractor is best at everything.

All extractors × all importances × their metrics, on the ten classes of the glyph world and the last layer of its
network, whose head is a mean and a linear map. Gradient × input, integrated gradients, occlusion and Shapley values are
then one and the same, the contributions ω, and no order of the concepts is better for C-deletion and C-insertion.
Those that are blind to the sign (Sobol', ω² / Σ ω²), to the amount (TCAV, saliency), or to both are not. Of an order,
its regret is told: 0 for the best of all orders, 1 for the worst, 1/2 for a random one on average; where the head is
affine that of insertion is the same. A method that gives the same importance to several concepts takes them in random
order. Each class is one sample: of images drawn for it, different ones for each run of a fit and for its test.

Command:  python experiments/holistic.py [--smoke] [--stage 2] [--out FOLDER]
          Stage 2 is an earlier layer, whose head is a residual block more and no longer affine.
Hardware: 2 CPU cores.
Time:     25 minutes on a busy machine; --smoke half a minute.
Expected: regret 0.000 of contributions by whatever name, and of RISE; Sobol' 0.22 [0.20, 0.26] (0.05 on NMF, 0.53 on
          the autoencoder), HSIC 0.22, saliency 0.28, TCAV 0.35, a random order 0.49. Semi-NMF, PCA and ICA leave least
          out (relative error 0.51 to 0.52; k-means 0.72) and use all codes; k-means, convex NMF and archetypes have the
          most stable atoms. Seed 0, jax 0.10.1.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.tree_util import Partial

from experiments.craft_photos import report
from sparks_jax import concepts, viz
from sparks_jax.concepts import Dictionary, Factorization, SparseAutoencoder
from sparks_jax.concepts.importance import RULES
from sparks_jax.concepts.sae import constrained, forward, observed
from sparks_jax.concepts.sae_losses import AUXK, auxiliary_loss, reconstruction_loss
from sparks_jax.data.glyphs import CLASSES, glyph
from sparks_jax.jobs.table import interval
from sparks_jax.models import bundled
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is measured, on what."""

    extractors: tuple[str, ...] = ()  # none: all
    classes: int = len(CLASSES)
    images: int = 24  # of each class, for each run of a fit and for the test
    explained: int = 16  # of those of the test, for the importances
    runs: int = 3  # of each fit, on other images with another key
    rank: int = 10
    stage: int = 3  # the layer: the last, 8 × 8 positions; or 2, 16 × 16
    subsets: int = 256  # of C-fidelity
    seed: int = 0
    out: Path = Path("sparks-out/holistic")
    smoke: bool = False


LAST = 3
NEIGHBOURS_OF = 256  # rows whose nearest neighbours are looked up


def topk_sae(
    acts: Any, rank: int, *, key: Any, num_nonzero: int = 4, num_steps: int = 500, batch: int = 256, rate: float = 5e-3
) -> Factorization:
    """A TopK autoencoder."""
    mean, scale = concepts.standardization(acts)
    atoms = concepts.Atoms(acts.shape[1], rank, rngs=nnx.Rngs(key))
    sae = SparseAutoencoder(atoms, concepts.TopKEncoder(atoms(), k=min(num_nonzero, rank)), mean=mean, scale=scale)
    structure, params, stats = nnx.split(sae, nnx.Param, ...)
    adam = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

    def step(state: tuple[Any, ...], key: Any) -> tuple[tuple[Any, ...], Any]:
        params, stats, momenta = state
        some = acts[jax.random.randint(key, (batch,), 0, len(acts))]

        def loss(params: Any) -> tuple[Any, Any]:
            sae = nnx.merge(structure, params, stats, copy=True)
            found = forward(sae, some)
            return reconstruction_loss(found) + AUXK * auxiliary_loss(sae, found, dead_after=50), found

        slope, found = jax.grad(loss, has_aux=True)(params)
        updates, momenta = adam.update(slope, momenta, params)
        sae = nnx.merge(structure, optax.apply_updates(params, updates), stats, copy=True)
        _, params, stats = nnx.split(observed(constrained(sae), found), nnx.Param, ...)
        return (params, stats, momenta), reconstruction_loss(found)

    (params, stats, _), errors = jax.lax.scan(
        step, (params, stats, adam.init(params)), jax.random.split(key, num_steps)
    )
    dictionary = nnx.merge(structure, params, stats, copy=True).dictionary()
    return Factorization(dictionary, concepts.encode(dictionary, acts), jnp.sqrt(errors))


EXTRACTORS: dict[str, Callable[..., Factorization]] = {
    "nmf": concepts.nmf,
    "semi_nmf": concepts.semi_nmf,
    "convex_nmf": concepts.convex_nmf,
    "archetypal": concepts.archetypal,
    "pca": concepts.pca,
    "ica": concepts.ica,
    "kmeans": concepts.kmeans,
    "sparse_dictionary": concepts.sparse_dictionary,
    "topk_sae": topk_sae,
}
SIGNED = ("pca", "ica", "sparse_dictionary")  # codes of either sign: that of an atom means nothing
RANDOM, REVERSED = "random order", "contributions reversed"
IMPORTANCES = (*(name for name in RULES if name != "auto"), RANDOM, REVERSED)

EXTRACTION = {
    "error": "Relative error ↓",
    "l0": "Share used ↓",
    "r2": "R² ↑",
    "unstable": "Instability, atoms ↓",
    "unstable_codes": "Instability, codes ↓",
    "frechet": "Fréchet / variance ↓",
    "ood": "Distance to real ↓",
    "logit_r2": "R² of the logit ↑",
}  # fmt: skip
FAITHFULNESS = {
    "deletion": "C-deletion ↓",
    "insertion": "C-insertion ↑",
    "deletion_regret": "Regret of deletion ↓",
    "insertion_regret": "Regret of insertion ↓",
    "fidelity": "C-fidelity ↑",
}  # fmt: skip


# --- activations ---


def activations(config: Config, model: Any) -> Any:
    """Of images of each class: `(classes, runs + 1, images, positions, positions, d)`, the last set for the test."""
    shape = (config.classes, config.runs + 1, config.images)
    keys = jax.random.split(jax.random.key(config.seed), shape)

    @jax.jit
    def of_class(keys: Any, label: Any) -> Any:
        images = jax.lax.map(lambda key: glyph(key, label).images, keys.reshape(-1), batch_size=32)
        return jax.lax.map(lambda x: model.features(x[None], config.stage)[0], images, batch_size=32)

    found = jnp.stack([of_class(keys[label], jnp.asarray(label)) for label in range(config.classes)])
    return found.reshape(*shape, *found.shape[2:])


# --- extraction ---


def fit(config: Config, name: str, acts: Any) -> Dictionary:
    """Dictionaries of each class and run, one program for all."""
    rows = acts[:, : config.runs].reshape(config.classes, config.runs, -1, acts.shape[-1])
    keys = jax.random.split(jax.random.key(config.seed + 1), rows.shape[:2])
    extract = lambda rows, key: EXTRACTORS[name](rows, config.rank, key=key).dictionary
    return jax.jit(jax.vmap(jax.vmap(extract)))(rows, keys)


def described(head: Any, dictionaries: Dictionary, train: Any, test: Any) -> dict[str, Any]:
    """What the first dictionary of a class makes of images it was not fitted to, and the codes of all of them."""
    rows, known = test.reshape(-1, test.shape[-1]), train.reshape(-1, train.shape[-1])
    codes = jax.vmap(lambda dictionary: concepts.encode(dictionary, rows))(dictionaries)
    first = jax.tree.map(lambda leaf: leaf[0], dictionaries)
    decoded = concepts.decode(first, codes[0])
    some = slice(None, None, max(1, len(rows) // NEIGHBOURS_OF))
    near, real = (concepts.neighbour_distance(known, a[some]).mean() for a in (decoded, rows))
    return {
        "codes": codes,
        "error": concepts.relative_error(rows, decoded).mean(),
        "l0": concepts.l0(codes[0]).mean() / codes.shape[-1],
        "r2": concepts.r_squared(rows, decoded),
        "frechet": concepts.frechet_distance(rows, decoded) / rows.var(0).sum(),
        "ood": near / real,
        "logit_r2": concepts.logit_r_squared(head, test, decoded.reshape(test.shape))[0],
    }


def extraction(config: Config, name: str, model: Any, dictionaries: Dictionary, acts: Any) -> dict[str, np.ndarray]:
    """Each metric of an extractor, one number for each class."""

    @jax.jit
    def of_classes(dictionaries: Dictionary, acts: Any) -> dict[str, Any]:
        def one(given: tuple[Any, ...]) -> dict[str, Any]:
            label, dictionaries, acts = given
            head = lambda a: model.head(a, config.stage)[:, label][:, None]
            return described(head, dictionaries, acts[0], acts[-1])

        return jax.lax.map(one, (jnp.arange(config.classes), dictionaries, acts))

    found = of_classes(dictionaries, acts)
    codes = found.pop("codes")
    found = jax.tree.map(np.asarray, found)
    alike = concepts.absolute_cosine if name in SIGNED else concepts.cosine
    found["unstable"] = np.array([concepts.stability(d, similarity=alike).mean() for d in dictionaries.atoms])
    moved = lambda a, b: jnp.abs(correlations(a, b)) if name in SIGNED else correlations(a, b)
    found["unstable_codes"] = np.array(
        [concepts.stability(jnp.moveaxis(u, -1, 1), similarity=moved).mean() for u in codes]
    )
    return found


@jax.jit
def correlations(first: Any, second: Any) -> Any:
    """Of every two concepts over the same positions."""
    return concepts.correlation(first, second)


# --- importance ---


def faithful(config: Config, model: Any, label: Any, dictionary: Dictionary, codes: Any, key: Any) -> dict[str, Any]:
    """Of each importance of the concepts of a class, in each image, `(importances, images)`: how faithful it is."""
    key_order, key_values, key_subsets = jax.random.split(key, 3)
    order = jax.random.permutation(key_order, codes.shape[-1])  # so that ties are broken at random
    dictionary, codes = dictionary._replace(atoms=dictionary.atoms[order]), codes[..., order]
    head = logit(lambda acts: model.head(acts, config.stage), label)
    ask = lambda rule: concepts.importance(head, dictionary, codes, method=rule, key=key_values).values
    values = {name: ask(name) for name in RULES if name != "auto"}
    values[RANDOM] = jax.random.uniform(key_values, values["gradient_input"].shape)
    values[REVERSED] = -values["gradient_input"]

    def measured(u: Any, phi: Any, key: Any) -> tuple[Any, ...]:
        deletion, insertion = (
            walk(head, dictionary, u, phi).auc for walk in (concepts.c_deletion, concepts.c_insertion)
        )
        return deletion, insertion, concepts.c_fidelity(head, dictionary, u, phi, key=key, num_samples=config.subsets)

    keys, every = jax.random.split(key_subsets, len(codes)), jnp.stack([values[name] for name in IMPORTANCES])
    found = jax.lax.map(lambda phi: jax.vmap(measured)(codes, phi, keys), every)
    return dict(zip(("deletion", "insertion", "fidelity"), found, strict=True))


def program(config: Config, model: Any) -> Callable[..., dict[str, Any]]:
    """`faithful`, compiled once for all extractors, class by class."""
    keys = jax.random.split(jax.random.key(config.seed + 2), config.classes)

    @jax.jit
    def of_classes(dictionaries: Dictionary, codes: Any) -> dict[str, Any]:
        one = lambda given: faithful(config, model, *given)
        return jax.lax.map(one, (jnp.arange(config.classes), dictionaries, codes, keys))

    return of_classes


def importances(config: Config, run: Callable[..., Any], dictionaries: Dictionary, acts: Any) -> dict[str, np.ndarray]:
    """Each metric, `(classes, importances, images)`, on images that the dictionaries were not fitted to."""
    first = jax.tree.map(lambda leaf: leaf[:, 0], dictionaries)
    codes = jax.jit(jax.vmap(concepts.encode))(first, acts[:, -1, : config.explained])
    if config.stage == LAST:  # the mean is all that the head knows of positions
        codes = codes.mean((2, 3), keepdims=True)
    # Whatever encoded them, what follows only decodes.
    found = run(first._replace(encoder=Partial(concepts.nonnegative)), codes)
    found = jax.tree.map(np.asarray, found)
    for name, sign in (("deletion", 1), ("insertion", -1)):
        losses = sign * found[name]
        best, worst = losses.min(1, keepdims=True), losses.max(1, keepdims=True)
        spread = np.where(worst > best, worst - best, np.nan)
        found[f"{name}_regret"] = (losses - best) / spread
    return found


# --- tables ---


def extraction_rows(found: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """A line for each extractor: means over classes."""
    return [
        {"extractor": name} | {title: interval(measures[metric]) for metric, title in EXTRACTION.items()}
        for name, measures in found.items()
    ]


def importance_rows(found: dict[str, dict[str, np.ndarray]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line for each importance: over all extractors; and its regret with each of them. Means over classes."""
    over = lambda values, i: interval(np.nanmean(values[:, i], -1))
    together = {metric: np.concatenate([one[metric] for one in found.values()], -1) for metric in FAITHFULNESS}
    first, second = [], []
    for i, name in enumerate(IMPORTANCES):
        first.append({"importance": name} | {title: over(together[m], i) for m, title in FAITHFULNESS.items()})
        second.append({"regret of": name} | {with_: over(one["deletion_regret"], i) for with_, one in found.items()})
    return first, second


def draw(config: Config, extraction: list[dict[str, Any]], importance: list[dict[str, Any]]) -> None:
    """A picture of each table."""
    for path, rows, titles in (
        ("extraction.png", extraction, EXTRACTION),
        ("importance.png", importance, FAITHFULNESS),
    ):
        name = next(iter(rows[0]))
        panels = {title: {row[name]: row[title][:3] for row in rows} for title in titles.values()}
        viz.intervals(panels, width=1.7).savefig(config.out / path, dpi=100)


def main(config: Config) -> dict[str, Any]:
    """Print the two tables, write them with a record, and return it."""
    if config.smoke:
        config = replace(
            config, extractors=("nmf", "pca"), classes=2, images=2, explained=2, runs=2, rank=3, subsets=8
        )  # fmt: skip
    begin, extracted, important = time.perf_counter(), {}, {}
    config.out.mkdir(parents=True, exist_ok=True)
    model = bundled.load("glyphs").model
    acts = activations(config, model)
    run = program(config, model)
    for name in config.extractors or EXTRACTORS:
        start = time.perf_counter()
        dictionaries = jax.block_until_ready(fit(config, name, acts))
        seconds = time.perf_counter() - start
        extracted[name] = extraction(config, name, model, dictionaries, acts)
        important[name] = importances(config, run, dictionaries, acts)
        print(f"{name}: {seconds:.1f} s to fit, {time.perf_counter() - start:.1f} s in all", flush=True)
    rows, (together, regrets) = extraction_rows(extracted), importance_rows(important)
    draw(config, rows, together)
    return report(config, begin, {"table": rows, "importance": together, "regret": regrets})


if __name__ == "__main__":
    main(tyro.cli(Config))
