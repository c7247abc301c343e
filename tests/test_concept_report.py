"""What the network saw: concepts of a picture and of a class, certified, and on the page."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sparks_jax import concepts, verify
from sparks_jax.cli import main
from sparks_jax.jobs import concepts as job
from sparks_jax.jobs import pictures
from sparks_jax.jobs.certified import certified_importance
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import Picture, Source, square
from sparks_jax.sensitivity import shapley_values

SIDE, GRID = 16, 4

# --- networks that see colours: the concepts of a picture of red, green and blue are red, green and blue --------


class Colours:
    """Activations are the mean colours of a grid; class 0 is red with some blue, class 1 green."""

    weights = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)

    def features(self, images):
        b, h, w, c = images.shape
        return images.reshape(b, GRID, h // GRID, GRID, w // GRID, c).mean((2, 4))

    def head(self, acts):
        return acts.mean((1, 2)) @ self.weights

    def __call__(self, images):
        return self.head(self.features(images))


class Signed(Colours):
    """Activations of both signs."""

    def features(self, images):
        return 2 * super().features(images) - 1


class Bent(Colours):
    """A head that is not affine, and has bounds."""

    def head(self, acts):
        return jax.nn.relu(acts.mean((1, 2)) @ self.weights - 0.1)


class Sorted(Colours):
    """A head that has no bounds."""

    def head(self, acts):
        return jnp.sort(acts.mean((1, 2)) @ self.weights, axis=1)[:, ::-1]


class Dark(Colours):
    """A layer that is dead."""

    def features(self, images):
        return 0 * super().features(images)


def network(model):
    return Network("Colours", model, ("red", "green"), SIDE, square, "Made for tests.")


def quarters():
    """Red at the top left, green at the top right, blue at the bottom left, black elsewhere."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    pixels[:half, :half, 0] = pixels[:half, half:, 1] = pixels[half:, :half, 2] = 255
    return pixels


def picture(pixels=None):
    pixels = quarters() if pixels is None else pixels
    return Picture(Source("p", "p", pixels=pixels), pixels / np.float32(255), pixels)


def seen(model, pool=None, label=0):
    net, key = network(model), jax.random.key(0)
    fitted = job.fit(net, label, picture(), pool, key=key, chunk=8, smoke=False)
    return job.look(net, label, picture(), fitted, chunk=8)


# --- certified importance ---------------------------------------------------------------------------------


def dictionary(k=3):
    return concepts.Dictionary(jnp.eye(k), jnp.zeros(k), jnp.ones(()), jax.tree_util.Partial(concepts.nonnegative))


def test_certified_is_exact_for_an_affine_head(key):
    """Both bounds are the contribution, at positions as at whole images."""
    codes, w = jax.random.uniform(key, (2, 4, 4, 3)), jnp.array([1.0, -2.0, 0.5])
    head = lambda acts: acts.mean((0, 1)) @ w + 7
    found = certified_importance(head, dictionary(), codes)
    expected = codes.mean((1, 2)) * w[None]
    np.testing.assert_allclose(found.lower, expected, atol=5e-6)
    np.testing.assert_allclose(found.upper, expected, atol=5e-6)


@pytest.mark.parametrize("bound", [verify.ibp, verify.crown])
def test_every_coalition_is_inside(bound, key):
    """What a concept adds to each of the coalitions of the others, its occlusion and its Shapley value among them."""
    k = 4
    weights, codes = jax.random.normal(key, (k, 8)), jnp.ones((1, k))
    head = lambda acts: jax.nn.relu(acts @ weights - 0.3).sum()
    found = certified_importance(head, dictionary(k), codes, bound=bound)
    f = jax.jit(concepts.of_codes(head, dictionary(k)))
    for mask in itertools.product([0.0, 1.0], repeat=k):
        for i in range(k):
            with_it, without = (jnp.array(mask).at[i].set(v) for v in (1.0, 0.0))
            adds = float(f(with_it) - f(without))
            assert found.lower[0, i] - 1e-5 <= adds <= found.upper[0, i] + 1e-5
    shapley = shapley_values(lambda m: f(m), k, key=key)
    assert (found.lower[0] - 1e-5 <= shapley).all()
    assert (shapley <= found.upper[0] + 1e-5).all()


def test_linear_bounds_share_the_mask(key):
    """Intervals forget that both evaluations see the same company: linear bounds are never looser."""
    weights, codes = jax.random.normal(key, (3, 8)), jnp.ones((1, 3))
    head = lambda acts: jax.nn.relu(acts @ weights).sum()
    loose, tight = (certified_importance(head, dictionary(), codes, bound=b) for b in (verify.ibp, verify.crown))
    assert (tight.upper - tight.lower <= loose.upper - loose.lower + 1e-5).all()
    assert (tight.upper - tight.lower).sum() < 0.9 * (loose.upper - loose.lower).sum()


@pytest.mark.parametrize(
    ("head", "codes", "says"),
    [
        (lambda acts: acts.sum(), jnp.ones((2, 4)), r"codes have shape \(2, 4\)"),
        (lambda acts: acts, jnp.ones((2, 3)), r"head returned shape \(3,\)"),
    ],
)
def test_certified_refuses(head, codes, says):
    with pytest.raises(ValueError, match=says):
        certified_importance(head, dictionary(), codes)


@pytest.fixture(autouse=True)
def crops_of_one_colour(monkeypatch):
    """The quarters are small: crops of several colours do not say which are the concepts."""
    monkeypatch.setattr(job, "OWN_CROPS", (0.25,))
    monkeypatch.setattr(job, "OWN_STRIDE", 0.5)


# --- one picture ------------------------------------------------------------------------------------------


def test_the_colours_of_a_picture():
    """Of its own crops: each colour is a concept, where it is, and what it adds is its weight times its share."""
    found = seen(Colours())
    assert found.own
    assert found.method == "nmf"
    assert found.exact
    assert found.dead == 0
    # A quarter of the picture has each colour: 3/4 for red, 1/4 for blue, nothing for green.
    np.testing.assert_allclose(found.values, [0.75, 0.25, 0.0], atol=1e-3)
    np.testing.assert_allclose(found.bounds, np.stack([found.values] * 2, 1))
    assert found.explained == pytest.approx(found.score, abs=1e-3)
    places = [np.unravel_index(where.argmax(), where.shape) for where in found.maps]
    assert [(int(i) // 2, int(j) // 2) for i, j in places] == [(0, 0), (1, 0), (0, 1)]
    for k, colour in enumerate([0, 2, 1]):
        assert found.examples[k][0].mean((0, 1)).argmax() == colour


def test_bounds_around_a_head_that_bends():
    """All there is of the score is one ReLU: the bounds of a concept hold its occlusion."""
    found = seen(Bent())
    assert not found.exact
    score = lambda red, blue: max(0.0, 3 * red + blue - 0.1)
    full = score(0.25, 0.25)
    for (low, high), adds in zip(found.bounds, [full - score(0, 0.25), full - score(0.25, 0)], strict=False):
        assert low - 2e-3 <= adds <= high + 2e-3


def test_a_head_without_bounds():
    found = seen(Sorted())
    assert found.bounds is None
    assert found.values[0] > 0


def test_negative_activations_take_semi_nmf():
    found = seen(Signed())
    assert found.method == "semi_nmf"
    assert found.explained == pytest.approx(found.score, abs=2e-2)


def test_a_dead_layer_is_an_error():
    with pytest.raises(ValueError, match="nothing to explain"):
        seen(Dark())


# --- images of the class ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Four red pictures in a folder of their own, a green one beside it, and a file that is no picture."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "reds").mkdir(parents=True)
    for i in range(4):
        pixels = quarters() // 2
        pixels[:8, :8, 0] = rng.integers(150, 255)
        Image.fromarray(pixels).save(tmp_path / "data" / "reds" / f"{i}.png")
    Image.fromarray(np.full((SIDE, SIDE, 3), (0, 200, 0), np.uint8)).save(tmp_path / "data" / "green.png")
    (tmp_path / "data" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "data"


def test_the_images_of_the_class_are_taken(folder):
    """By what the network sees, not by the name of a folder; what cannot be read is told."""
    pool = job.read_pool(str(folder), network(Colours()))
    assert pool is not None
    assert {label: len(found) for label, found in pool.pictures.items()} == {0: 4, 1: 1}
    assert len(pool.unreadable) == 1
    found = seen(Colours(), pool)
    assert not found.own
    assert found.num_images == 4
    assert (found.stderr[:2] > 0).any()
    assert len({tuple(example.ravel()[:3]) for example in found.examples[0]}) > 1  # of several images
    assert "4 of the class among the 6 images" in found.note


def test_a_class_without_images_falls_back_on_the_picture(folder):
    pool = job.read_pool(str(folder), network(Colours()))._replace(pictures={})
    found = seen(Colours(), pool)
    assert found.own
    assert "none of the class among the 6 images" in found.note


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="no picture in the folder"):
        job.read_pool(str(tmp_path), network(Colours()))
    with pytest.raises(NotADirectoryError, match="no folder"):
        job.read_pool(str(tmp_path / "nowhere"), network(Colours()))


# --- the command line -------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW", 32)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(quarters()).save("photo.png")
    return ["explain", "photo.png", "--size", str(SIDE), "--methods", "saliency", "--quiet", "--traceback"]


def colours():
    return Colours()


def whole():
    """A network without halves."""
    return lambda images: Colours()(images)


def test_concepts_on_the_page(photo, folder, capsys):
    out = Path("out")
    arguments = [*photo, "--model", "tests.test_concept_report:colours", "--out", str(out)]
    assert main([*arguments, "--concepts"]) == 0
    page = (out / "report.html").read_text()
    assert "What the network saw" in page
    assert "parts of this one picture" in page
    assert page.count("<h4>") == 3
    record = json.loads((out / "run.json").read_text())["pictures"][0]["concepts"]
    assert record["own"]
    assert record["values"] == pytest.approx([0.75, 0.25, 0.0], abs=1e-2)
    assert (out / "pictures/photo/concept_3.png").is_file()
    assert np.load(out / "maps.npz")["concepts/photo/maps"].shape == (3, GRID, GRID)
    assert main([*arguments, "--force", "--data", str(folder)]) == 1  # one of the files is no picture
    page = (out / "report.html").read_text()
    assert "4 images that the network takes for <strong>class 0</strong>" in page
    assert "broken.png" in page
    assert "broken.png" in capsys.readouterr().err


def test_what_concepts_look_like_is_on_the_page(photo):
    """Two steps from noise: a picture of each, transparent where the score did not look."""
    arguments = [*photo, "--model", "tests.test_concept_report:colours", "--out", "out", "--visualize", "--smoke"]
    assert main(arguments) == 0
    page = Path("out/report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "made from noise" in page
    with Image.open("out/pictures/photo/concept_1_made.png") as made:
        assert (made.mode, made.size) == ("RGBA", (18, 18))  # a seventh more than 16


def test_a_network_without_halves_keeps_its_maps(photo, capsys):
    assert main([*photo, "--model", "tests.test_concept_report:whole", "--out", "out", "--concepts"]) == 0
    page = Path("out/report.html").read_text()
    assert "What the network saw" not in page
    assert "concepts was skipped" in page
    assert "has no `features` and `head`" in capsys.readouterr().err
