"""One run of `sparks visualize`: classes and a network in, a folder with a page, pictures and a record out."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparks_jax import featviz
from sparks_jax.data.spectra import read_spectrum
from sparks_jax.jobs import outputs
from sparks_jax.jobs.batches import default_chunk
from sparks_jax.jobs.gallery import Made, Summary, page
from sparks_jax.jobs.markup import short
from sparks_jax.jobs.network import Network, find_label, load_network, traced_once
from sparks_jax.jobs.pictures import find, read
from sparks_jax.jobs.versions import device, versions
from sparks_jax.jobs.visualize import MARGIN, visualize
from sparks_jax.scores import logit

Say = Callable[[str], None]
Tick = Callable[[int, int, float], None]

VISUALIZATIONS = "visualizations.npz"
CLASSES = ("monarch", "flamingo", "tiger", "peacock")  # of ImageNet, where none is asked for
SMOKE = dict(num_steps=4, num_crops=2)


class Settings(NamedTuple):
    """What a run is asked to do; the defaults are those of the command line.

    Attributes:
        wanted: Classes, by number or name; none: four that are known to come out well, or the first four.
        model: A bundled network, `resnet18` … `resnet152` or MODULE:FUNCTION.
        weights: File of weights.
        classes: File of class names.
        method: "maco" or "fourier".
        size: Side of the network's images in pixels; None for its own.
        canvas: Side of what is made; None for a seventh more.
        steps: Steps of each.
        crops: Crops at each step.
        spectrum: Folder of photographs, or a `.npy` file of magnitudes, that MACO keeps; None for the formula.
        chunk: Crops at once; None: what suits the device.
        seed: Of the start and of the crops.
        out: Folder of the results.
        force: Whether an earlier run in that folder is replaced.
        smoke: A quick, rough run.
        top: Predictions shown.
        quiet: No progress bar.
    """

    wanted: tuple[str, ...] = ()
    model: str = "efficientnet_lite0"
    weights: str | None = None
    classes: str | None = None
    method: str = "maco"
    size: int | None = None
    canvas: int | None = None
    steps: int = 128
    crops: int = 8
    spectrum: str | None = None
    chunk: int | None = None
    seed: int = 0
    out: Path = Path("sparks-visualizations")
    force: bool = False
    smoke: bool = False
    top: int = 5
    quiet: bool = False


def run(settings: Settings, *, say: Say) -> int:
    """Visualize classes and write the folder of results.

    Args:
        settings: What to do.
        say: Takes each sentence about what went wrong; where the page is, is printed.

    Returns:
        0.

    Raises:
        ValueError: One sentence about a setting, or about an objective that is not finite.
        OSError: One sentence about a file or the folder.
        KeyboardInterrupt: If interrupted, with what there was by then written.
    """
    if settings.method not in ("maco", "fourier"):
        raise ValueError(f"the method is {settings.method!r}, expected maco or fourier")
    outputs.check(settings.out, force=settings.force)
    network = load_network(settings.model, weights=settings.weights, classes=settings.classes, size=settings.size)
    labels = _labels(settings.wanted, network)
    labels = labels[:1] if settings.smoke else labels
    begin = time.perf_counter()
    with _progress(labels, network, settings) as tick:
        seen = visualize(
            [logit(network.model, label) for label in labels],
            key=jax.random.key(settings.seed),
            tick=tick,
            **_options(settings, network),
        )
    made = [_made(network, label, one) for label, one in zip(labels, seen.visualizations, strict=False)]
    summary = Summary(
        network, made, asked=len(labels), method=settings.method, steps=_steps(settings), seed=settings.seed,
        top=settings.top, seconds=time.perf_counter() - begin, interrupted=seen.interrupted, smoke=settings.smoke,
        versions=versions(), device=device(),
    )  # fmt: skip
    _write(summary, settings, say)
    if seen.interrupted:
        raise KeyboardInterrupt
    return 0


def _labels(wanted: Sequence[str], network: Network) -> list[int]:
    if wanted:
        return list(dict.fromkeys(find_label(text, network.classes) for text in wanted))
    try:
        return [find_label(name, network.classes) for name in CLASSES]
    except ValueError:
        return list(range(min(len(CLASSES), len(network.classes))))


def _steps(settings: Settings) -> int:
    return SMOKE["num_steps"] if settings.smoke else settings.steps


def _options(settings: Settings, network: Network) -> dict[str, Any]:
    """Of `visualize`: those of MACO, or of the free Fourier coefficients with as many views."""
    canvas = settings.canvas or round(MARGIN * network.size)
    crops = SMOKE["num_crops"] if settings.smoke else settings.crops
    chunk = settings.chunk or default_chunk()
    common: dict[str, Any] = dict(num_steps=_steps(settings), input_size=network.size, chunk=chunk)
    if settings.method == "maco":
        return common | dict(
            spectrum=_spectrum(settings, network, canvas), size=canvas, values_range=(0, 1), num_crops=crops
        )
    free = featviz.coefficients(canvas, values_range=(0, 1))
    ascent = lambda f, **options: featviz.visualize_ascent(f, free, **options)
    return common | dict(ascent=ascent, num_views=crops)


def _spectrum(settings: Settings, network: Network, canvas: int) -> featviz.Spectrum:
    if settings.spectrum is None:
        return featviz.Spectrum.natural(canvas)
    place = Path(settings.spectrum)
    if not place.is_dir():
        return featviz.Spectrum.from_array(jnp.asarray(read_spectrum(place)))
    return featviz.Spectrum.from_images(
        read(source, canvas, network.prepare).seen for source in find((str(place),), None)
    )


def _made(network: Network, label: int, seen: featviz.Visualization) -> Made:
    """What the network says of the whole image."""
    shown = featviz.fitted(jnp.asarray(seen.image), (network.size, network.size))
    logits = np.asarray(traced_once(network.model)(shown[None])[0], np.float64)
    odds = np.exp(logits - logits.max())
    return Made(label, seen, odds / odds.sum())


@contextlib.contextmanager
def _progress(labels: list[int], network: Network, settings: Settings) -> Iterator[Tick]:
    """One bar on stderr, on a terminal only, that says which class is under way."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("the progress bar needs tqdm: pip install 'sparks-jax[demo]'") from None
    form = "{desc:<32}|{bar}| {n}/{total} steps [{elapsed}<{remaining}]"
    each, names = _steps(settings), [short(network.classes[label]) for label in labels]
    with tqdm(total=len(labels) * each, disable=True if settings.quiet else None, bar_format=form) as bar:

        def tick(i: int, steps: int, score: float) -> None:
            bar.set_description_str(f"{names[i][:20]}: {score:.1f}")
            bar.update(i * each + steps - bar.n)

        yield tick


def _write(summary: Summary, settings: Settings, say: Say) -> None:
    if summary.interrupted:
        done = sum(len(one.seen.history) == summary.steps for one in summary.made)
        kept = "what there is was kept" if summary.made else "its first steps were not done, there is nothing to keep"
        say(f"interrupted after {done} of {summary.asked} classes; {kept}")
    if not summary.made:
        return
    outputs.clear(settings.out)
    files = []
    for one in summary.made:
        for name, pixels in one.pictures(summary.network).items():
            files.append(f"{outputs.PICTURES}/{name}")
            outputs.write(settings.out / files[-1], outputs.encode(pixels, "PNG"))
    files += [outputs.REPORT, VISUALIZATIONS, outputs.RECORD]
    held = {
        "images": np.stack([one.seen.image for one in summary.made]),
        "transparencies": np.stack([one.seen.transparency for one in summary.made]),
        "labels": np.array([one.label for one in summary.made]),
        "probabilities": np.stack([one.probabilities for one in summary.made]),
    }
    held |= {f"history/{one.label}": one.seen.history for one in summary.made}
    outputs.write(settings.out / VISUALIZATIONS, outputs.archive(held))
    outputs.write(settings.out / outputs.REPORT, page(summary).encode())
    outputs.write(settings.out / outputs.RECORD, outputs.as_json(summary.record(settings._asdict(), files)))
    print(f"The page is {settings.out / outputs.REPORT}")
