r"""Pictures of maps: arrays -> RGB arrays -> matplotlib Axes.

The first half is pure: from arrays to RGB in [0, 1], nothing drawn. The second half puts them on Axes. A colour
map is the name of one of matplotlib's, or an array `(n 3)` of colours.
"""

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real

Axes = Any  # matplotlib.axes.Axes: matplotlib is imported inside functions only
Figure = Any  # matplotlib.figure.Figure
Map = Real[Any, "y x"]  # letters of its own: `overlay` says in words that the sizes differ
Pixels = Real[Any, "h w c"]
RGB = Float[np.ndarray, "h w 3"]
Cmap = str | Float[np.ndarray, "n 3"]
Range = tuple[float, float]
Row = Sequence[Any]  # a number and the two ends of its interval, None or NaN where there is none

IMPORTANCE = "inferno"  # dark to bright in equal perceptual steps: more important is lighter
SIGNED = "RdBu_r"  # blue against, white nothing, red for
MISSING = np.array([0.5, 0.5, 0.5])  # NaN
CHARACTERS = 12  # of a title, to an inch
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


# --- arrays -> RGB ----------------------------------------------------------------------------------------


def limits(a: Map, clip: float = 0.5) -> Range:
    r"""Range of an unsigned map: its `clip`-th and (100 − `clip`)-th percentiles.

    $(q_{p}(a),\, q_{100 - p}(a))$ over the finite values

    Args:
        a: The map.
        clip: Percentage of the pixels that saturate at each end: a few outliers do not darken the rest.

    Example:
        >>> limits(np.arange(5.0).reshape(1, 5), clip=25.0)
        (1.0, 3.0)

    Reference:
        Smilkov et al. 2017, SmoothGrad, arXiv:1706.03825, section 3.1 (capping outlying values).
    """
    finite = _finite(a)
    if not finite.size:
        return 0.0, 0.0
    return float(np.percentile(finite, clip)), float(np.percentile(finite, 100 - clip))


def symmetric_limits(a: Map, clip: float = 0.5) -> Range:
    r"""Range of a signed map, with zero in its middle.

    $(-m, m)$, $m = q_{100 - p}(|a|)$ over the finite values

    Args:
        a: The map.
        clip: Percentage of the pixels that saturate.

    Example:
        >>> symmetric_limits(np.array([[-4.0, 1.0, 2.0]]), clip=0.0)
        (-4.0, 4.0)

    Reference:
        Moreland 2009, Diverging color maps for scientific visualization.
    """
    finite = np.abs(_finite(a))
    top = float(np.percentile(finite, 100 - clip)) if finite.size else 0.0
    return -top, top


def colorize(
    a: Map, *, cmap: Cmap = IMPORTANCE, clip: float = 0.5, scale: Callable[[Map, float], Range] = limits
) -> RGB:
    r"""A map in colours; NaN is grey and a constant map takes the lowest colour.

    Example:
        >>> black_to_white = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> colorize(np.array([[0.0, 1.0, 4.0]]), cmap=black_to_white, clip=0.0)[0, :, 0].tolist()
        [0.0, 0.25, 1.0]

    Reference:
        van der Walt & Smith 2015, A better default colormap for matplotlib (inferno).
    """
    return _paint(_levels(a, scale(a, clip)), cmap)


def colorize_signed(a: Map, *, cmap: Cmap = SIGNED, clip: float = 0.5) -> RGB:
    r"""A signed map in colours that diverge from zero: the middle colour is zero, whatever the extremes are.

    Example:
        >>> r, g, b = colorize_signed(np.array([[0.0, 2.0, -1.0]]), clip=0.0)[0, 1]  # the largest: red
        >>> bool(r > 2 * g and r > 2 * b)
        True

    Reference:
        Harrower & Brewer 2003, ColorBrewer.org: an online tool for selecting colour schemes for maps.
    """
    low, high = symmetric_limits(a, clip)
    levels = _levels(a, (low, high)) if high > 0 else np.where(np.isnan(_array(a)), np.nan, 0.5)
    return _paint(levels, cmap)


def overlay(image: Pixels, a: Map, *, alpha: float = 0.9, cmap: Cmap = IMPORTANCE, clip: float = 0.5) -> RGB:
    r"""A map laid over its image, which is turned to grey so that every colour comes from the map.

    $y = (1 - \alpha t)\, \mathrm{grey}(x) + \alpha t\, \mathrm{colour}(t)$, with $t \in [0, 1]$ the level of
    the map in its range: what does not matter stays a photograph.

    Args:
        image: In [0, 1], or integers up to 255; one or three channels.
        a: The map, of the same size.
        alpha: Opacity where the map is largest.
        cmap: Colours of the map.
        clip: Percentage of the pixels that saturate at each end of the map's range.

    Raises:
        ValueError: If the sizes differ.

    Example:
        >>> overlay(np.ones((2, 2, 3)), np.zeros((2, 2))).min().item()
        1.0

    Reference:
        Zhou et al. 2016, Learning deep features for discriminative localization, arXiv:1512.04150.
    """
    grey = _grey(rgb(image))
    if grey.shape[:2] != np.shape(a):
        raise ValueError(f"overlay: the map has shape {np.shape(a)} and the image {grey.shape[:2]}; resize one of them")
    levels = _levels(a, limits(a, clip))
    opacity = alpha * np.nan_to_num(levels)[..., None]
    return (1 - opacity) * grey + opacity * _paint(levels, cmap)


def rgb(image: Pixels) -> RGB:
    """An image as RGB in [0, 1]: integers are divided by 255, others clipped, one channel becomes three.

    Raises:
        ValueError: If it has neither one nor three channels.

    Example:
        >>> rgb(np.full((1, 1, 1), 255, np.uint8)).tolist()
        [[[1.0, 1.0, 1.0]]]

    Reference:
        Anderson et al. 1996, Proposal for a standard default color space for the internet: sRGB.
    """
    pixels = np.asarray(image)
    if pixels.shape[2] not in (1, 3):
        raise ValueError(f"rgb: the image has shape {pixels.shape}, expected (h, w, 1) or (h, w, 3)")
    values = pixels / 255.0 if np.issubdtype(pixels.dtype, np.integer) else pixels.astype(float)
    return np.broadcast_to(np.clip(np.nan_to_num(values), 0, 1), (*pixels.shape[:2], 3))


@functools.cache
def _named_table(name: str) -> np.ndarray:
    try:
        from matplotlib import colormaps
    except ImportError:
        raise ImportError("named colour maps need matplotlib: pip install 'sparks-jax[demo]'") from None
    return colormaps[name](np.linspace(0, 1, 256))[:, :3]


def table(cmap: Cmap) -> Float[np.ndarray, "n 3"]:
    """The colours of a colour map, from its lowest to its highest.

    Example:
        >>> table("gray")[[0, -1], 0].tolist()
        [0.0, 1.0]

    Reference:
        Hunter 2007, Matplotlib: a 2D graphics environment.
    """
    return _named_table(cmap) if isinstance(cmap, str) else np.asarray(cmap, float)


def _array(a: Map) -> np.ndarray:
    values = np.asarray(a, float)
    return np.where(np.isfinite(values), values, np.nan)


def _finite(a: Map) -> np.ndarray:
    values = _array(a)
    return values[~np.isnan(values)]


def _levels(a: Map, ends: Range) -> np.ndarray:
    """Place of each value between the ends, in [0, 1]; NaN stays NaN."""
    low, high = ends
    return np.clip((_array(a) - low) / (high - low if high > low else 1.0), 0, 1)


def _paint(levels: np.ndarray, cmap: Cmap) -> RGB:
    colours = table(cmap)
    places = np.linspace(0, 1, len(colours))
    painted = np.stack([np.interp(np.nan_to_num(levels), places, channel) for channel in colours.T], -1)
    return np.where(np.isnan(levels)[..., None], MISSING[None, None], painted)


def _grey(pixels: RGB) -> RGB:
    return np.repeat((pixels @ LUMINANCE)[..., None], 3, -1)


# --- RGB -> Axes ------------------------------------------------------------------------------------------


def show(ax: Axes, image: Pixels, a: Map | None = None, *, title: str = "", **options: Any) -> Axes:
    """Draw an image, or a map over it, without ticks.

    Args:
        ax: Where to draw.
        image: The image.
        a: The map, if any.
        title: Written above.
        **options: Those of `overlay`.

    Example:
        >>> from matplotlib.figure import Figure
        >>> show(Figure().add_subplot(), np.zeros((2, 2, 3)), title="night").get_title()
        'night'

    Reference:
        Hunter 2007, Matplotlib: a 2D graphics environment.
    """
    ax.imshow(rgb(image) if a is None else overlay(image, a, **options))
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def plot_curves(ax: Axes, curves: Mapping[str, Any], *, title: str = "") -> Axes:
    """Draw deletion or insertion curves, with each area in the legend.

    Args:
        ax: Where to draw.
        curves: From a name to a `metrics.Curve` (fractions, scores, auc).
        title: Written above.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from sparks_jax.metrics import Curve
        >>> curve = Curve(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), jnp.array(0.5))
        >>> ax = plot_curves(Figure().add_subplot(), {"sobol": curve})
        >>> ax.get_legend().get_texts()[0].get_text()
        'sobol · 0.500'

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421.
    """
    for name, curve in curves.items():
        ax.plot(curve.fractions, curve.scores, label=f"{name} · {float(curve.auc):.3f}")
    ax.set(xlabel="share of the pixels", ylabel="score", xlim=(0, 1), title=title)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def grid(
    images: Sequence[Pixels],
    maps: Mapping[str, Sequence[Map]],
    titles: Sequence[str] = (),
    *,
    side: float = 2.2,
) -> Figure:
    """A figure with one row per image: the image, then each method's map over it.

    Args:
        images: The images.
        maps: From the name of a method to one map per image.
        titles: One per image, written over the first column. Titles longer than a picture is wide go on a second line.
        side: Of one picture, in inches.

    Raises:
        ValueError: If a method does not have one map per image.

    Example:
        >>> x = np.zeros((4, 4, 3))
        >>> len(grid([x, x], {"sobol": [x[..., 0]] * 2}, ["a", "b"]).axes)
        4

    Reference:
        Hunter 2007, Matplotlib: a 2D graphics environment.
    """
    from matplotlib.figure import Figure

    for name, of_images in maps.items():
        if len(of_images) != len(images):
            raise ValueError(f"grid: {name!r} has {len(of_images)} maps for {len(images)} images")
    shape = (len(images), 1 + len(maps))
    figure = Figure(figsize=(side * shape[1], side * shape[0] * 1.1), layout="constrained")
    fit = functools.partial(textwrap.fill, width=max(1, round(CHARACTERS * side)), break_long_words=False)
    for row, axes in enumerate(figure.subplots(*shape, squeeze=False)):
        show(axes[0], images[row], title=fit(titles[row]) if titles else "")
        for ax, (name, of_images) in zip(axes[1:], maps.items(), strict=True):
            show(ax, images[row], of_images[row], title=fit(name) if row == 0 else "")
    return figure


def plot_intervals(ax: Axes, rows: Mapping[str, Row], *, title: str = "") -> Axes:
    """Draw numbers as bars from zero with their intervals, one under the other.

    Args:
        ax: Where to draw.
        rows: From a name to its number and interval.
        title: Written above.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = plot_intervals(Figure().add_subplot(), {"ring": (0.6, 0.5, 0.7), "tag": (0.1, None, None)})
        >>> [round(float(bar.get_width()), 1) for bar in ax.patches]
        [0.6, 0.1]
    """
    numbers = np.array([row[:3] for row in rows.values()], float).reshape(-1, 3)
    middle, ends = numbers[:, 0], numbers[:, 1:]
    reach = np.maximum(np.stack([middle - ends[:, 0], ends[:, 1] - middle]), 0)  # NaN: nothing is drawn
    places = np.arange(len(middle))
    ax.barh(places, middle, xerr=reach, color="0.75", error_kw=dict(elinewidth=1.2, capsize=2))
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set(yticks=places, yticklabels=list(rows), ylim=(len(places) - 0.4, -0.6), title=title)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def intervals(panels: Mapping[str, Mapping[str, Row]], *, width: float = 2.4) -> Figure:
    """A figure of `plot_intervals` side by side, for the same names.

    Args:
        panels: From a title to its rows.
        width: Of one panel, in inches.

    Example:
        >>> rows = {"nmf": (0.2, 0.1, 0.3), "pca": (0.1, 0.0, 0.2)}
        >>> [ax.get_title() for ax in intervals({"error": rows, "sparsity": rows}).axes]
        ['error', 'sparsity']
    """
    from matplotlib.figure import Figure

    tall = 0.8 + 0.24 * max(map(len, panels.values()))
    figure = Figure(figsize=(1.2 + width * len(panels), tall), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        plot_intervals(ax, rows, title=textwrap.fill(title, round(CHARACTERS * width)))
        ax.tick_params(labelleft=ax is axes[0])
    return figure


def concept_page(
    image: Pixels,
    maps: Mapping[str, Map],
    crops: Sequence[Sequence[Any]],  # pixels, of any size
    importances: Sequence[Row],
    *,
    title: str = "",
    label: str = "importance",
    side: float = 1.5,
) -> Figure:
    """A figure of the concepts of an image: it and their importance to the left, a row for each of them to the right.

    Args:
        image: The image.
        maps: From the name of a concept to where it is, the most important first.
        crops: Its examples, some for each concept.
        importances: Of each concept, with the two ends of its interval.
        title: Written over the image.
        label: What importance is, written under its axis.
        side: Of a map, in inches.

    Example:
        >>> x = np.zeros((4, 4, 3))
        >>> len(concept_page(x, {"fur": x[..., 0]}, [[x, x]], [(0.6, 0.5, 0.7)]).axes)
        5

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    from matplotlib.figure import Figure

    columns = 1 + max(map(len, crops))
    figure = Figure(figsize=(side * (columns + 2.6), side * 1.12 * len(maps)), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(2.6, columns))
    top, bottom = left.subplots(2, 1, height_ratios=(1.4, 1))
    show(top, image, title=textwrap.fill(title, round(CHARACTERS * 2.4 * side)))
    plot_intervals(bottom, dict(zip(maps, importances, strict=True))).set_xlabel(label)
    rows = right.subplots(len(maps), columns, squeeze=False)
    for axes, (name, a), examples in zip(rows, maps.items(), crops, strict=True):
        show(axes[0], image, a, title=name)
        for ax in axes[1:]:
            ax.set_axis_off()
        for ax, example in zip(axes[1:], examples, strict=False):
            show(ax, example)
    return figure
