"""Pictures of maps: the colours mean what the scale says, and no map breaks a page."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from sparks_jax import viz
from sparks_jax.metrics import Curve

GREYS = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
ODD_MAPS = {
    "zero": np.zeros((4, 5)),
    "constant": np.full((4, 5), 3.0),
    "negative constant": np.full((4, 5), -3.0),
    "one NaN": np.where(np.arange(20).reshape(4, 5) == 7, np.nan, 1.0),
    "all NaN": np.full((4, 5), np.nan),
    "infinite": np.where(np.arange(20).reshape(4, 5) == 7, np.inf, np.arange(20).reshape(4, 5)),
    "integers": np.arange(20).reshape(4, 5),
    "huge": np.linspace(-1e38, 1e38, 20).reshape(4, 5),
}


@pytest.fixture
def ramp():
    return np.linspace(-1.0, 3.0, 101).reshape(1, 101)


@pytest.mark.parametrize("a", ODD_MAPS.values(), ids=ODD_MAPS)
@pytest.mark.parametrize(
    "paint", [viz.colorize, viz.colorize_signed, lambda a: viz.overlay(np.full((4, 5, 3), 0.5), a)]
)
def test_every_map_has_colours(paint, a):
    pixels = paint(a)
    assert pixels.shape == (4, 5, 3)
    assert ((pixels >= 0) & (pixels <= 1)).all()


def test_colours_are_linear_in_the_map(ramp):
    # Greys are the identity, so colours are the ramp moved to [0, 1]; float64 throughout.
    np.testing.assert_allclose(viz.colorize(ramp, cmap=GREYS, clip=0.0)[0, :, 1], np.linspace(0, 1, 101), atol=1e-12)


def test_clip_saturates_outliers(ramp):
    spoilt = ramp.copy()
    spoilt[0, 50] = 1e6
    clean, clipped = (viz.colorize(a, cmap=GREYS, clip=1.0)[0, :, 0] for a in (ramp, spoilt))
    # One outlier in 101 is beyond the 99th percentile: it moves the others by less than one of their 100 steps.
    assert np.abs(np.delete(clean - clipped, 50)).max() < 0.02


def test_zero_is_the_middle_of_a_signed_scale(ramp):
    middle = viz.table(viz.SIGNED)[127:129].mean(0)
    zero = np.argmin(np.abs(ramp[0]))
    # A table of 256 colours is read to half an entry.
    np.testing.assert_allclose(viz.colorize_signed(ramp)[0, zero], middle, atol=1 / 128)


@pytest.mark.parametrize("sign", [1, -1])
def test_signs_have_opposite_colours(ramp, sign):
    red, _, blue = viz.colorize_signed(sign * np.abs(ramp), clip=0.0)[0, -1]
    assert (red > blue) == (sign > 0)


def test_changing_the_sign_reverses_the_scale(ramp):
    reverse = viz.table(viz.SIGNED)[::-1]
    np.testing.assert_allclose(viz.colorize_signed(-ramp), viz.colorize_signed(ramp, cmap=reverse), atol=1e-12)


def test_nan_is_grey_and_alone(ramp):
    holed = ramp.copy()
    holed[0, 3] = np.nan
    pixels = viz.colorize(holed, clip=0.0)
    assert pixels[0, 3].tolist() == viz.MISSING.tolist()
    np.testing.assert_allclose(np.delete(pixels, 3, 1), np.delete(viz.colorize(ramp, clip=0.0), 3, 1))


def test_overlay_leaves_what_does_not_matter_a_grey_photograph():
    image = np.random.default_rng(0).random((2, 2, 3))
    a = np.array([[0.0, 1.0], [0.0, 0.0]])
    pixels = viz.overlay(image, a, alpha=0.5, clip=0.0)
    grey = image @ viz.LUMINANCE
    np.testing.assert_allclose(pixels[1, 0], grey[1, 0], atol=1e-12)
    np.testing.assert_allclose(pixels[0, 1], 0.5 * grey[0, 1] + 0.5 * viz.table(viz.IMPORTANCE)[-1], atol=1e-12)


def test_overlay_of_bytes_and_jax_arrays_is_that_of_floats():
    image, a = np.array([[[0, 51, 255]]], np.uint8), np.ones((1, 1))
    np.testing.assert_allclose(viz.overlay(image, a), viz.overlay(image / 255, a), atol=1e-12)
    np.testing.assert_allclose(viz.overlay(jnp.asarray(image), jnp.asarray(a)), viz.overlay(image, a), atol=1e-12)


def test_one_channel_is_grey():
    assert (viz.rgb(np.full((2, 2, 1), 0.25)) == 0.25).all()


def test_wrong_sizes_are_said():
    with pytest.raises(ValueError, match=r"map has shape \(3, 3\) and the image \(2, 2\)"):
        viz.overlay(np.zeros((2, 2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"expected \(h, w, 1\) or \(h, w, 3\)"):
        viz.rgb(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        viz.grid([np.zeros((2, 2, 3))] * 2, {"rise": [np.zeros((2, 2))]})


def test_show_draws_the_overlay():
    image, a = np.random.default_rng(0).random((4, 4, 3)), np.eye(4)
    ax = viz.show(Figure().add_subplot(), image, a, title="eye")
    np.testing.assert_array_equal(ax.images[0].get_array(), viz.overlay(image, a))
    assert ax.get_title() == "eye"


def test_curves_are_drawn_with_their_areas():
    t = np.linspace(0, 1, 5)
    curves = {"rise": Curve(t, 1 - t, np.array(0.5)), "sobol": Curve(t, t**2, np.array(0.34375))}
    ax = viz.plot_curves(Figure().add_subplot(), curves)
    assert [line.get_ydata().tolist() for line in ax.lines] == [(1 - t).tolist(), (t**2).tolist()]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rise · 0.500", "sobol · 0.344"]


def test_grid_renders(tmp_path):
    images, maps = [np.zeros((4, 4, 3))] * 2, {"rise": [np.eye(4)] * 2, "sobol": [np.ones((4, 4))] * 2}
    figure = viz.grid(images, maps, ["a", "b"])
    figure.savefig(tmp_path / "grid.png", dpi=20)
    assert [ax.get_title() for ax in figure.axes] == ["a", "rise", "sobol", "b", "", ""]
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_long_titles_of_a_grid_do_not_run_into_each_other():
    """No word of a title is cut, a line has 12 characters an inch or one word."""
    x = np.zeros((2, 2, 3))
    figure = viz.grid([x], {"Guided backpropagation": [x[..., 0]], "RISE": [x[..., 0]]}, ["a ring: reads it"], side=1.0)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["a ring:\nreads it", "Guided\nbackpropagation", "RISE"]


def test_intervals_are_bars_with_ends():
    """The first row is on top; a number without an interval has a bar and no whisker."""
    ax = viz.plot_intervals(Figure().add_subplot(), {"a": (1.0, 0.5, 2.0), "b": (-0.5, None, None)})
    assert [float(bar.get_width()) for bar in ax.patches] == [1.0, -0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    (whiskers,) = ax.collections
    ends = np.array([segment[:, 0] for segment in whiskers.get_segments() if len(segment)])
    assert ends[0].tolist() == [0.5, 2.0]
    assert np.isnan(ends[1:]).all()


def test_panels_share_their_names(tmp_path):
    rows = {"a": (1.0, 0.5, 2.0), "b": (np.nan, None, None)}
    figure = viz.intervals({"error ↓": rows, "R² ↑": rows})
    figure.savefig(tmp_path / "intervals.png", dpi=20)
    shown = [[label.get_text() for label in ax.get_yticklabels() if label.get_visible()] for ax in figure.axes]
    assert shown[0] == ["a", "b"]
    assert [ax.get_title() for ax in figure.axes] == ["error ↓", "R² ↑"]


def test_a_page_of_concepts(tmp_path):
    """The image, the bars, and a row for each concept, whatever the number and the size of its crops."""
    image, crops = np.zeros((4, 4, 3)), [[np.ones((2, 2, 3))] * 2, [np.ones((3, 3, 3))]]
    page = viz.concept_page(
        image, {"fur": np.eye(4), "eyes": np.ones((4, 4))}, crops, [(0.7, 0.6, 0.8), (0.3, None, None)], title="a cat"
    )
    page.savefig(tmp_path / "page.png", dpi=20)
    assert [ax.get_title() for ax in page.axes] == ["a cat", "", "fur", "", "", "eyes", "", ""]
    with pytest.raises(ValueError, match="shorter|longer"):
        viz.concept_page(image, {"fur": np.eye(4)}, crops, [(0.7, 0.6, 0.8)])
