"""Claim: explanations of a network that cheats help a simulated user to predict it; maps that know nothing do not.

The study of Colin et al. 2022, rehearsed with programs in place of people. In every image of two classes is a tag whose
colour stands for one of them at random. One network was trained where the tag told the class, and says what the tag
says; the bundled one reads the glyph. A user sees 5, 10, then 15 examples with what a network said of them, some groups
with an explanation beside, and predicts it on images without. It looks at the mean colours of a grid of cells, an
explanation being how bright each of them is in the picture that a person would be shown, and looks in new images for
what it saw where the examples were bright. So it can learn what a colour means, and cannot learn a shape: of the
network that reads glyphs no map can help it, however true. Other users look for the example whose mean colour is
nearest, with the maps as masks or without, say what was said most often, or know, and err as often whatever they see.

Compared are the six methods of the paper; the concept that a class rests on most (CRAFT), as a map, and as a map with
crops of other images that have most of it; and two controls, where the image itself draws the eye, and the map of
another image. Each of many studies has images of its own, and intervals are by a bootstrap over studies, so that they
are about other images and other users. Deletion, and the mass of the maps on the tag, are set beside Utility.

Command:  python experiments/metapredictor_glyphs.py [--smoke] [--networks NAME …] [--kinds NAME …] [--out FOLDER]
          Networks: "reads the glyph" "reads the tag". Kinds of users: "matching parts" "nearest image" "nearest
          attended" "majority" "noisy oracle"; all of both, if nothing else is said.
          Tables (CSV), a record (JSON), a picture, and for the first study the questionnaire that people would be
          given, with the answers of the users and the report on them.
Hardware: 2 CPU cores.
Time:     4 minutes for a network beside other work, 3 more to train the one that cheats, at best; --smoke a
          minute.
Expected: of the network that cheats, Utility 1.01 [0.87, 1.19] of what draws the eye and 1.06 [0.91, 1.26] of maps of
          other images; saliency 1.28 [1.09, 1.52], gradient_input 1.35 [1.14, 1.60], integrated_gradients 1.43 [1.26,
          1.68], smoothgrad 1.31 [1.15, 1.53], grad_cam 1.24 [1.04, 1.47], occlusion 1.31 [1.13, 1.54]; craft 1.54
          [1.35, 1.80] as a map and 1.67 [1.46, 1.95] with crops. After Holm's correction grad_cam (0.12) is above
          0.05. Utility goes with the mass on the tag, r = 0.97 [0.83, 1.00], and not with deletion, r = -0.01 [-0.76,
          0.75]. Users "matching parts", 8 studies, seed 0, jax 0.10.1; the others gain nothing (0.93 to 1.07). Of the
          network that reads the glyph nothing helps: 0.93 [0.84, 1.03] to 1.00 [0.88, 1.13]; of the other users only
          "nearest attended" gains, by CRAFT's maps: 1.18 [1.02, 1.37].
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

from experiments import craft_glyphs, localization_glyphs
from experiments.craft_photos import report
from sparks_jax import attribution, concepts, human, images, metrics, viz
from sparks_jax.data.glyphs import CLASSES, Glyphs, glyph
from sparks_jax.human import BASELINE, CONTROL, Shown, Study
from sparks_jax.jobs import questionnaire, study
from sparks_jax.jobs.table import Interval, interval
from sparks_jax.models import bundled
from sparks_jax.scores import logit, probability

# Those of the paper.
METHODS = ("saliency", "gradient_input", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")

# Users: by parts or images that look alike, by how often, and by knowing.
Kind = Literal["matching parts", "nearest image", "nearest attended", "majority", "noisy oracle"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Config:
    """How many studies of what, with whom."""

    studies: int = 8  # each with other images
    pool: int = 56  # images of each study, a quarter of each kind
    users: int = 20  # in each condition of each study
    methods: tuple[str, ...] = METHODS
    kinds: tuple[Kind, ...] = KINDS  # of users; picture, correlations and the rehearsed study are of the first
    networks: tuple[Literal["reads the glyph", "reads the tag"], ...] = localization_glyphs.NETWORKS
    grid: int = 16  # cells that a user looks at, on a side
    width: float = 0.1  # by how much two colours differ and are alike, for users who match parts
    oracle: float = 0.7  # share of right answers of the noisy oracle, whatever it is shown
    memory: float = 0.8
    lapse: float = 0.1
    fit: int = 240  # images of all classes that concepts are fitted to
    crops: int = 4  # of each concept
    measured: int = 24  # images for the automatic metrics
    steps: int = 400  # of the training of the network that cheats
    resamples: int = 9999
    seed: int = 0
    out: Path = Path("sparks-out/metapredictor_glyphs")
    smoke: bool = False


READS_GLYPH, READS_TAG = localization_glyphs.NETWORKS
PAIR = (0, 5)  # cross and heart, whose tags are of opposite colours
NAMES = tuple(CLASSES[c] for c in PAIR)
SHUFFLED, CRAFT_MAP, CRAFT = "map of another image", "craft: map", "craft: map and crops"
CROP = 16  # pixels on a side
BATCH = 32  # images drawn at once


# --- images, networks, maps ---


@jax.jit
def some(keys: Any, labels: Any, cues: Any) -> Glyphs:
    """Images of these classes, with these tags."""
    return jax.lax.map(lambda of: glyph(*of), (keys, labels, cues))


def draw(key: Any, labels: Any, cues: Any) -> Glyphs:
    """The same, of any number of images with one program."""
    num = -len(labels) % BATCH + len(labels)
    given = jax.random.split(key, num), jnp.resize(labels, num), jnp.resize(cues, num)
    drawn = [some(*(a[i : i + BATCH] for a in given)) for i in range(0, num, BATCH)]
    return jax.tree.map(lambda *a: np.concatenate(a)[: len(labels)], *drawn)


def pools(config: Config) -> tuple[Glyphs, Glyphs]:
    """Images of all classes, for concepts; and of two, with tags of both colours, as often in all four ways."""
    keys = jax.random.split(jax.random.key(config.seed + 7))
    i, j, two = np.arange(config.fit), np.arange(config.studies * config.pool), np.array(PAIR)
    return draw(keys[0], i % 10, i // 10 % 10), draw(keys[1], two[j % 2], two[j // 2 % 2])


def methods(key: Any) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """From a network, an image and a class to a map `(h w)`, larger where more important."""
    size = lambda a: images.heatmap(a, "l2")
    return {
        "saliency": lambda m, x, y: size(attribution.saliency(logit(m, y), x)),
        "gradient_input": lambda m, x, y: size(attribution.gradient_input(logit(m, y), x)),
        "integrated_gradients": lambda m, x, y: size(attribution.integrated_gradients(logit(m, y), x, num_steps=16)),
        "smoothgrad": lambda m, x, y: size(attribution.smoothgrad(logit(m, y), x, key=key, num_samples=32)),
        "grad_cam": lambda m, x, y: attribution.grad_cam(m.features, logit(Partial(head, m), y), x),
        "occlusion": lambda m, x, y: attribution.occlusion(logit(m, y), x, patch=8, stride=8, baseline=0.5),
    }


def head(model: Any, acts: Any) -> Any:
    """Logits from the last activations."""
    return model.head(acts)


def maps_of(model: Any, xs: Any, labels: Any, key: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Of every method, of these images."""
    chosen = {name: method for name, method in methods(key).items() if name in names}
    one = lambda of: {name: method(model, *of) for name, method in chosen.items()}
    return jax.jit(lambda xs, ys: jax.lax.map(one, (xs, ys), batch_size=8))(xs, labels)


def level(heatmap: Any) -> Any:
    """How bright each pixel of a map is where it is shown: between the percentiles that `viz` draws it between."""
    low, high = jnp.percentile(heatmap, 0.5), jnp.percentile(heatmap, 99.5)
    return jnp.clip((heatmap - low) / jnp.where(high > low, high - low, 1), 0, 1)


def crops_of(config: Config, model: Any, found: craft_glyphs.Found, fit: Glyphs) -> np.ndarray:
    """For each of the two classes, crops around where its top concept is strongest in other images: `(2 n s s 3)`."""
    acts = jax.jit(craft_glyphs.activations)(model, fit.images)
    codes = np.asarray(jax.jit(concepts.encode)(found.dictionary, acts))
    crops = []
    for c in PAIR:
        of = codes[..., found.top[c]]
        best = np.argsort(-of.max((1, 2)))[: config.crops]
        places = [np.unravel_index(of[i].argmax(), of.shape[1:]) for i in best]
        cell = fit.images.shape[1] // of.shape[1]
        corners = [np.clip(np.array(p) * cell + (cell - CROP) // 2, 0, fit.images.shape[1] - CROP) for p in places]
        crops.append([fit.images[i][r : r + CROP, s : s + CROP] for i, (r, s) in zip(best, corners, strict=True)])
    return np.array(crops)


# --- one network: its studies, what is shown in them, what users answer ---


def users(config: Config) -> dict[Kind, human.User]:
    """Of every kind."""
    who = human.matching_parts(config.width), human.nearest_image, human.nearest_attended, human.majority
    return dict(zip(KINDS, (*who, human.noisy_oracle(config.oracle)), strict=True))


def designed(config: Config, predicted: np.ndarray, labels: np.ndarray, wrong: float) -> list[Study]:
    """A study of each part of the pool, its images numbered in the whole pool."""
    conditions = (SHUFFLED, *config.methods, CRAFT_MAP, CRAFT)
    studies = []
    for i in range(config.studies):
        here = np.arange(i * config.pool, (i + 1) * config.pool)
        # An image outside of this study's part gets a class that there is not, and is not drawn.
        mine = np.full(len(predicted), len(PAIR))
        mine[here] = predicted[here]
        title = "Crosses, hearts and a network"
        studies.append(
            Study.design(
                mine, labels, classes=NAMES, methods=conditions, seed=config.seed + i, wrong=wrong, title=title
            )
        )
    return studies


def explained(
    config: Config, model: Any, world: Glyphs, found: craft_glyphs.Found, fit: Glyphs, shown: Any
) -> dict[str, Any]:
    """Maps `(n h w)` of all conditions of the images shown, 0 elsewhere; and the crops of both classes."""
    taken = found.taken
    key = jax.random.key(config.seed)
    made = maps_of(model, world.images[shown], taken[shown], key, config.methods)
    tops = found.top[taken[shown]]
    made[CRAFT_MAP] = craft_glyphs.maps_of(model, found.dictionary, world.images[shown], tops)[craft_glyphs.GRADIENT]
    made[CONTROL] = jax.jit(lambda xs: jax.lax.map(human.bottom_up, xs, batch_size=32))(world.images[shown])
    made[SHUFFLED] = made[config.methods[-1]][human.derangement(key, len(shown))]
    maps = {name: np.zeros(world.images.shape[:3], np.float32) for name in made}
    for name, of in made.items():
        maps[name][shown] = np.asarray(of)
    return maps | {CRAFT: crops_of(config, model, found, fit)}


def attention(config: Config, maps: dict[str, Any], parts: Any, predicted: np.ndarray) -> dict[str, Any]:
    """What a user looks at in each condition."""
    bright = jax.jit(lambda a: human.cells(jax.vmap(level)(a)[..., None], config.grid)[..., 0])
    looked = {name: bright(jnp.asarray(of)) for name, of in maps.items() if name != CRAFT}
    # Crops are cut into cells as large as those of the image, and looked at as much as the map.
    crops = jnp.asarray(maps[CRAFT])
    cells = human.cells(crops.reshape(-1, *crops.shape[2:]), CROP * config.grid // 64)
    cells = cells.reshape(len(PAIR), -1, cells.shape[-1])[np.minimum(predicted, 1)]
    share = looked[CRAFT_MAP] / jnp.maximum(looked[CRAFT_MAP].sum(1, keepdims=True), 1e-9)
    even = jnp.full(cells.shape[:2], 1 / cells.shape[1])
    looked[CRAFT] = Shown(jnp.concatenate([parts, cells], 1), jnp.concatenate([share, even], 1))
    return looked


def tested(config: Config, studies: list[Study], answers: dict[str, Any]) -> dict[str, human.Finding]:
    """Utility of each condition. A row is a study with all its users: intervals and tests are over studies."""
    right = np.stack([s.answers() for s in studies])[:, None]
    correct = {name: np.moveaxis(of == right, 1, 2) for name, of in answers.items()}
    return human.analyse(correct, seed=config.seed, num_resamples=config.resamples)


def measured(config: Config, model: Any, world: Glyphs, taken: np.ndarray, maps: dict[str, Any], shown: Any) -> Any:
    """Of each map what automatic metrics say: deletion of the probability, and the mass on the tag."""
    few = np.asarray(shown)[: config.measured]

    @jax.jit
    def values(heatmaps: Any) -> Any:
        def one(of: Any) -> Any:
            x, y, tag, a = of
            walk = metrics.deletion(
                probability(model, y), x, a, key=jax.random.key(config.seed), steps=16, baseline=0.5
            )
            return walk.auc, metrics.relevance_mass(a, tag)

        return jax.lax.map(one, (world.images[few], taken[few], world.tags[few], heatmaps), batch_size=4)

    return {
        name: dict(zip(("deletion", "mass on the tag"), map(np.asarray, values(of[few])), strict=True))
        for name, of in maps.items()
        if name != CRAFT
    }


def network(config: Config, name: str, model: Any, fit: Glyphs, world: Glyphs) -> dict[str, Any]:
    """Everything about one network."""
    found = craft_glyphs.find(craft_glyphs.Config(rank=16, seed=config.seed), model, fit, world)
    taken = found.taken
    predicted, labels = (np.select([a == PAIR[0], a == PAIR[1]], [0, 1], len(PAIR)) for a in (taken, world.labels))
    studies = designed(config, predicted, labels, 0.5 if name == READS_TAG else 0.0)
    shown = np.array([item.image for s in studies for session in s.sessions for item in session.examples])
    maps = explained(config, model, world, found, fit, shown)
    print(f"the network that {name}: {len(studies)} studies, {len(shown)} images explained", flush=True)
    parts = jax.jit(human.cells, static_argnums=1)(jnp.asarray(world.images), config.grid)
    looked = attention(config, maps, parts, predicted)
    given: dict[str, Any] = dict(num_participants=config.users, memory=config.memory, lapse=config.lapse)
    take = partial(human.simulate_studies, studies, parts, looked, key=jax.random.key(config.seed + 1), **given)
    said = {kind: take(user=users(config)[kind]) for kind in config.kinds}
    answers = {kind: {c: np.asarray(a) for c, a in of.items()} for kind, of in said.items()}
    print(f"{config.users} users in each of {len(studies[0].conditions)} conditions have answered", flush=True)
    results = {user: tested(config, studies, of) for user, of in answers.items()}
    automatic = measured(config, model, world, taken, maps, np.random.default_rng(0).permutation(shown))
    example = (studies[0], world.images, maps, {k: a[0] for k, a in answers[config.kinds[0]].items()})
    return {
        "found": results,
        "automatic": automatic,
        "accuracy": float((taken == world.labels).mean()),
        "example": example,
    }


# --- what is told ---


def with_ends(value: float, ends: Any, number: int) -> Interval:
    """A number with its interval, as tables show it."""
    return Interval(value, float(ends[0]), float(ends[1]), number)


def rows_of(config: Config, name: str, of: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each condition."""
    rows = []
    for condition, one in of["found"][config.kinds[0]].items():
        row: dict[str, Any] = {"network": name, "condition": condition}
        row |= {f"right, {k} examples": f"{a:.3f}" for k, a in zip((5, 10, 15), one.accuracies, strict=True)}
        u = one.utility
        row["Utility"] = "" if u is None else with_ends(u.value, u.interval, one.participants)
        row |= {
            f"U, {k}": "" if u is None else f"{v:.2f}"
            for k, v in zip((5, 10, 15), (0, 0, 0) if u is None else u.sessions, strict=True)
        }
        row["p, Holm"] = "" if one.adjusted is None else f"{one.adjusted:.4f}"
        for user in config.kinds[1:]:
            other = of["found"][user][condition].utility
            row[f"Utility, {user}"] = "" if other is None else with_ends(other.value, other.interval, one.participants)
        values = of["automatic"].get(condition, {})
        rows.append(
            row | {metric: interval(values[metric]) if values else "" for metric in ("deletion", "mass on the tag")}
        )
    return rows


def correlations(config: Config, name: str, of: dict[str, Any]) -> list[dict[str, Any]]:
    """Utility of the methods, controls left out, against what the metrics say of their maps."""
    compared = [m for m in of["automatic"] if m not in (CONTROL, SHUFFLED)]
    utilities = [of["found"][config.kinds[0]][m].utility.value for m in compared]
    rows = []
    for metric in ("deletion", "mass on the tag"):
        c = human.correlate(utilities, [of["automatic"][m][metric].mean() for m in compared])
        rows.append({
            "network": name, "metric": metric, "methods": len(compared),
            "r": with_ends(c.linear, c.linear_interval, len(compared)), "p of r": f"{c.linear_p:.3f}",
            "rho": with_ends(c.rank, c.rank_interval, len(compared)), "p of rho": f"{c.rank_p:.3f}",
        })  # fmt: skip
    return rows


def rehearse(config: Config, example: Any) -> None:
    """The questionnaire of one study as people would be given it, filled in by the users, and the report on it."""
    one, pool, maps, answers = example
    folder = config.out / "study"
    strips = {CRAFT: pictures(pool, maps, one)}
    shown = {name: strips.get(name, of) for name, of in maps.items()}
    questionnaire.export(one, pool, shown, folder, force=True)
    files = []
    for response in human.as_responses(one, answers):
        files.append(folder / f"answers-{response.participant.replace(' ', '-').replace(':', '')}.json")
        files[-1].write_text(json.dumps(human.as_record(one, response), indent=1))
    study.run(study.Settings(folder, tuple(files), quiet=True), say=print)


def pictures(pool: Any, maps: dict[str, Any], one: Study) -> dict[int, np.ndarray]:
    """The map of a concept with its crops beside: what people would see of it."""
    drawn = {}
    for item in (item for session in one.sessions for item in session.examples):
        crops = maps[CRAFT][item.predicted]
        column = np.concatenate(list(crops), 0)
        side = pool.shape[1]
        column = np.pad(column, ((0, max(0, side - len(column))), (0, 0), (0, 0)))[:side]
        over = questionnaire.stimulus(pool[item.image], maps[CRAFT_MAP][item.image])
        drawn[item.image] = np.concatenate([over, np.ones((side, 2, 3)), column], 1)
    return drawn


def main(config: Config) -> dict[str, Any]:
    """Print the tables, write them with a record, a picture and a rehearsed study; return the record."""
    if config.smoke:
        config = replace(
            config, studies=2, users=3, methods=("saliency", "gradient_input", "grad_cam"),
            fit=32, crops=2, measured=2,
            networks=(READS_GLYPH,), resamples=49,
        )  # fmt: skip  # the other one, untrained, says one class of everything
    begin = time.perf_counter()
    config.out.mkdir(parents=True, exist_ok=True)
    training = localization_glyphs.Config(steps=config.steps, seed=config.seed, out=config.out, smoke=config.smoke)
    networks = {
        READS_TAG: lambda: localization_glyphs.cheat(training),
        READS_GLYPH: lambda: bundled.load("glyphs").model,
    }
    fit, world = pools(config)
    tables, panels, about, example = {"table": [], "correlations": []}, {}, {}, None
    for name in config.networks:
        of = network(config, name, networks[name](), fit, world)
        tables["table"] += rows_of(config, name, of)
        tables["correlations"] += correlations(config, name, of)
        panels[f"{name}: Utility - 1"] = {
            condition: [u - 1 for u in (one.utility.value, *one.utility.interval)]
            for condition, one in of["found"][config.kinds[0]].items()
            if condition != BASELINE
        }
        about[name], example = {"accuracy": of["accuracy"]}, example or of["example"]
        print(
            f"the network that {name}: right on {of['accuracy']:.3f} of the pool; {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    viz.intervals(panels, width=3.2).savefig(config.out / "utility.png", dpi=120)
    rehearse(config, example)
    return report(config, begin, tables, networks=about)


if __name__ == "__main__":
    main(tyro.cli(Config))
