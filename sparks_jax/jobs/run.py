"""One run of `sparks explain`: pictures and a network in, a folder with a page, arrays and a record out.

Pictures go through in blocks of one per device. The pictures of a block are on disk before the next begins, and
an interruption or a failure still writes what was finished: it costs only the block it falls in.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from sparks_jax import images, metrics, viz
from sparks_jax.jobs import concepts, outputs
from sparks_jax.jobs.batches import default_chunk
from sparks_jax.jobs.bounds import check_bounds
from sparks_jax.jobs.concept_pictures import concept_pictures
from sparks_jax.jobs.explain import count_evaluations, explain
from sparks_jax.jobs.measure import measure
from sparks_jax.jobs.methods import DEFAULT, Method, choose, contributions, importance
from sparks_jax.jobs.network import Network, labels_asked, load_network, traced_once
from sparks_jax.jobs.pictures import Source, enlarge, find, read
from sparks_jax.jobs.record import CONCEPTS, CURVES, arrays, record
from sparks_jax.jobs.report import Panel, Result, Summary, page
from sparks_jax.jobs.versions import device, versions
from sparks_jax.types import Heatmap, Image, Score

Say = Callable[[str], None]
Tick = Callable[[str, int], None]

SMOKE_PICTURES = 2
SMOKE_DATA = 4


class Settings(NamedTuple):
    """What a run is asked to do; the defaults are those of the command line.

    Attributes:
        images: Files and folders; none: the natural photographs of `data.natural`.
        model: A bundled network, `resnet18` … `resnet152` or MODULE:FUNCTION.
        weights: File of weights.
        classes: File of class names.
        methods: Names in `methods.ALL`.
        labels: Class to explain, by number or name: none (the predicted one), one for all, or one each.
        size: Side of the network's images in pixels; None for its own.
        chunk: Evaluations of the network at once on each device; None: what suits the device.
        seed: Of the random methods and of ties.
        out: Folder of the results.
        force: Whether an earlier run in that folder is replaced.
        smoke: A quick, rough run: few pictures, few samples.
        top: Predictions shown.
        concepts: Whether the page says what the network saw.
        data: Folder of images that concepts are fitted on, those that the network takes for the class; it implies
            `concepts`.
        visualize: Whether concepts are also pictured by feature visualization; it implies `concepts`.
        quiet: No progress bar.
    """

    images: tuple[str, ...] = ()
    model: str = "efficientnet_lite0"
    weights: str | None = None
    classes: str | None = None
    methods: tuple[str, ...] = DEFAULT
    labels: tuple[str, ...] = ()
    size: int | None = None
    chunk: int | None = None
    seed: int = 0
    out: Path = Path("sparks-out")
    force: bool = False
    smoke: bool = False
    top: int = 5
    concepts: bool = False
    data: str | None = None
    visualize: bool = False
    quiet: bool = False


def run(settings: Settings, *, say: Say, started: float | None = None) -> int:
    """Explain pictures and write the folder of results.

    Args:
        settings: What to do.
        say: Takes each sentence about what went wrong; where the report is, is printed.
        started: `time.perf_counter()` at the start of the program, so that imports count.

    Returns:
        0; 1 if a picture could not be explained.

    Raises:
        ValueError: One sentence about a setting.
        OSError: One sentence about a file or the folder.
        KeyboardInterrupt: If interrupted, with the results of the finished pictures written.
    """
    started = time.perf_counter() if started is None else started
    methods = choose(settings.methods)
    sources = sources_of(settings.images, smoke=settings.smoke)
    outputs.check(settings.out, force=settings.force)
    network = load_network(settings.model, weights=settings.weights, classes=settings.classes, size=settings.size)
    asked = labelled(sources, settings.labels, network, say, smoke=settings.smoke)
    summary = _begin(settings, network, methods, len(asked))
    saw = _concepts_of(settings, network, summary) if settings.concepts or settings.data or settings.visualize else None
    files: list[str] = []
    try:
        with _progress(len(asked) * (len(methods) + (saw is not None)), settings.quiet) as tick:
            for block in _blocks(asked):
                results = _explain_block(summary, block, settings, tick)
                if saw is not None:
                    results = [_with_concepts(summary, result, saw, tick) for result in results]
                if results and not summary.results:
                    outputs.clear(settings.out)
                files += _write_pictures(settings.out, results)
                summary.results.extend(results)
    except BaseException:
        summary = summary._replace(total=time.perf_counter() - started, interrupted=True)
        _finish(summary, settings, files, say)
        raise
    return _finish(summary._replace(total=time.perf_counter() - started), settings, files, say)


# --- before -----------------------------------------------------------------------------------------------


def sources_of(arguments: Sequence[str], *, smoke: bool) -> list[Source]:
    """The pictures that were named, all of them; the photographs at hand where none was, of a smoke run the first."""
    return find(arguments, SMOKE_PICTURES if smoke and not arguments else None)


def labelled(
    sources: list[Source], labels: Sequence[str], network: Network, say: Say, *, smoke: bool
) -> list[tuple[Source, int | None]]:
    """Each picture with the class to explain in it, None for the predicted one; a smoke run says that it takes few."""
    asked = list(zip(sources, labels_asked(labels, network, len(sources)), strict=True))
    if not smoke or len(asked) <= SMOKE_PICTURES:
        return asked
    say(f"--smoke takes the first {SMOKE_PICTURES} of {len(asked)} pictures")
    return asked[:SMOKE_PICTURES]


def _begin(settings: Settings, network: Network, methods: dict[str, Method], asked: int) -> Summary:
    return Summary(
        network,
        methods,
        seed=settings.seed,
        top=settings.top,
        asked=asked,
        smoke=settings.smoke,
        versions=versions(),
        device=device(),
        results=[],
        errors={},
        skipped={},
        seconds=dict.fromkeys([*methods, CURVES, CONCEPTS], 0.0),
        forwards={},
    )


def _blocks(items: list[Any]) -> list[list[Any]]:
    size = jax.device_count()
    return [items[start : start + size] for start in range(0, len(items), size)]


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Tick]:
    """One bar on stderr, on a terminal only, that says what is being computed."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("the progress bar needs tqdm: pip install 'sparks-jax[demo]'") from None
    form = "{desc:<44}|{bar}| {n}/{total} [{elapsed}]"
    with tqdm(total=total, disable=True if quiet else None, bar_format=form) as bar:

        def tick(what: str, steps: int) -> None:
            bar.update(steps)
            bar.set_description_str(what)

        yield tick


# --- one block of pictures --------------------------------------------------------------------------------


def _explain_block(
    summary: Summary, block: list[tuple[Source, int | None]], settings: Settings, tick: Tick
) -> list[Result]:
    """The results of the pictures of a block that can be read; the others become errors of the summary."""
    results = [result for source, label in block if (result := _predict(summary, source, label))]
    for name in summary.ran() if results else ():
        tick(f"{name}: {', '.join(result.picture.source.title for result in results)}", 0)
        try:
            panels = _panels(summary, name, results, settings)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            summary.skipped[name] = str(error).partition("\n")[0]
            continue
        for result, panel in zip(results, panels, strict=True):
            result.panels[name] = panel
        tick("", len(block))
    return results


def _predict(summary: Summary, source: Source, label: int | None) -> Result | None:
    """A result without maps yet, or None and an error in the summary."""
    try:
        picture = read(source, summary.network.size, summary.network.prepare)
        logits = np.asarray(traced_once(summary.network.model)(picture.seen[None])[0], np.float32)
        if not np.isfinite(logits).all():
            raise ValueError("the network's output for it is not finite")
    except (OSError, ValueError) as error:
        summary.errors[str(source.path or source.title)] = str(error)
        return None
    return Result(picture, int(logits.argmax()) if label is None else label, _softmax(logits), {})


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def _panels(summary: Summary, name: str, results: list[Result], settings: Settings) -> list[Panel]:
    """What one method says about each picture of a block."""
    method, halves, whole = summary.methods[name], summary.network.model, traced_once(summary.network.model)
    options = method.smoke if settings.smoke else {}
    curves = _curve_options(settings)
    common: dict[str, Any] = dict(key=jax.random.key(settings.seed), mesh=mesh_of_all(), chunk=settings.chunk)
    batch = np.stack([result.picture.seen for result in results])
    labels = np.array([result.label for result in results])
    start = time.perf_counter()
    model = halves if method.halves else whole
    raw = explain(method.call, model, batch, labels, score=method.score, **common, **options)
    if method.radius is not None:
        check_bounds(raw, method.radius, whole, batch, labels, **common)
    summary.seconds[name] += time.perf_counter() - start
    if name not in summary.forwards:
        classes = len(summary.network.classes)
        summary.forwards[name] = count_evaluations(method.call, batch.shape[1:], num_classes=classes, **options)
    heat = np.stack([importance(method, one) for one in raw])
    start = time.perf_counter()
    walks = measure(deletion_and_insertion, whole, batch, labels, heat, **common, **curves)
    summary.seconds[CURVES] += time.perf_counter() - start
    return [
        Panel(raw[i], heat[i], contributions(method, raw[i]), *(_at(walks, i, walk) for walk in (0, 1)))
        for i in range(len(results))
    ]


def _concepts_of(settings: Settings, network: Network, summary: Summary) -> Callable[[Result], concepts.Seen] | None:
    """What sees the concepts of a picture: fitted once for a class with images, else on the picture itself."""
    try:
        concepts.check_halves(network)
    except ValueError as error:
        summary.skipped[CONCEPTS] = str(error)
        return None
    pool = concepts.read_pool(settings.data, network, SMOKE_DATA if settings.smoke else None)
    summary.errors.update({f"a picture of {settings.data}": why for why in (pool.unreadable if pool else ())})
    common: dict[str, Any] = dict(key=jax.random.key(settings.seed), smoke=settings.smoke)
    common["chunk"] = chunk = settings.chunk or default_chunk()
    known: dict[int, tuple[concepts.Fitted, Sequence[np.ndarray]]] = {}

    def fitted(result: Result) -> tuple[concepts.Fitted, Sequence[np.ndarray]]:
        found = concepts.fit(network, result.label, result.picture, pool, **common)
        if not settings.visualize:
            return found, ()
        return found, concept_pictures(network, found.concepts.dictionary, concepts.SHOWN, **common)

    def saw(result: Result) -> concepts.Seen:
        found, pictured = known.get(result.label) or fitted(result)
        if not found.own:
            known[result.label] = found, pictured
        seen = concepts.look(network, result.label, result.picture, found, chunk=chunk)
        return seen._replace(pictured=pictured)

    return saw


def _with_concepts(summary: Summary, result: Result, saw: Callable[[Result], concepts.Seen], tick: Tick) -> Result:
    if CONCEPTS in summary.skipped:
        return result
    tick(f"concepts: {result.picture.source.title}", 0)
    start = time.perf_counter()
    try:
        result = result._replace(seen=saw(result))
    except (ValueError, TypeError, NotImplementedError) as error:
        summary.skipped[CONCEPTS] = str(error).partition("\n")[0]
    summary.seconds[CONCEPTS] += time.perf_counter() - start
    tick("", 1)
    return result


def deletion_and_insertion(
    f: Score, x: Image, heatmap: Heatmap, *, key: PRNGKeyArray, steps: int = 32, chunk: int = 16
) -> metrics.Curve:
    """Deletion to black and insertion into a blurred picture, in one program: half as much to compile.

    Both walk from one image to another in the order of the map: deleting the picture is inserting black into it.

    Returns:
        The two curves, stacked.

    Example:
        >>> x, heatmap = jnp.ones((2, 2, 1)), jnp.array([[4.0, 3.0], [2.0, 1.0]])
        >>> f = lambda x: (heatmap[..., None] * x).sum()
        >>> deletion_and_insertion(f, x, heatmap, key=jax.random.key(0), steps=4).scores[0].tolist()
        [10.0, 6.0, 3.0, 1.0, 0.0]
    """

    def walk(start: Image, end: Image) -> metrics.Curve:
        return metrics.insertion(f, end, heatmap, key=key, steps=steps, baseline=start, chunk=max(1, chunk // 2))

    return jax.vmap(walk)(jnp.stack([x, images.blur(x)]), jnp.stack([jnp.zeros_like(x), x]))


def _curve_options(settings: Settings) -> dict[str, Any]:
    return dict(steps=8 if settings.smoke else 32)


def _at(tree: Any, *index: int) -> Any:
    return jax.tree.map(lambda field: field[index], tree)


def mesh_of_all() -> Mesh | None:
    """All devices, if there are several: images are spread over them."""
    return Mesh(jax.devices(), ("images",)) if jax.device_count() > 1 else None


# --- after ------------------------------------------------------------------------------------------------


def _write_pictures(folder: Path, results: list[Result]) -> list[str]:
    """Write a PNG of each picture, of each map over it and of each signed map; return their paths."""
    pictures = {}
    for result in results:
        view, place = result.picture.view, f"{outputs.PICTURES}/{result.picture.source.name}"
        pictures[f"{place}/picture.png"] = view
        for name, panel in result.panels.items():
            pictures[f"{place}/{name}.png"] = viz.overlay(view, enlarge(panel.importance, len(view)))
            if panel.signed is not None:
                signed = viz.colorize_signed(enlarge(panel.signed, len(view)))
                pictures[f"{place}/{name}_signed.png"] = signed
        for i, where in enumerate(result.seen.maps if result.seen else ()):
            pictures[f"{place}/concept_{i + 1}.png"] = viz.overlay(view, enlarge(where, len(view)))
        for i, pictured in enumerate(result.seen.pictured if result.seen else ()):
            pictures[f"{place}/concept_{i + 1}_made.png"] = pictured
    for name, pixels in pictures.items():
        outputs.write(folder / name, outputs.encode(pixels, "PNG"))
    return list(pictures)


def _finish(summary: Summary, settings: Settings, files: list[str], say: Say) -> int:
    """Write the page, the arrays and the record of what is finished, and say where they are."""
    for title, why in summary.errors.items():
        say(f"{title} was left out: {why}")
    for name, why in summary.skipped.items():
        say(f"{name} was skipped: {why}")
    if summary.interrupted:
        say(f"interrupted after {len(summary.results)} of {summary.asked} pictures")
    explained = bool(summary.results and summary.ran())
    if explained:
        files += [outputs.REPORT, outputs.MAPS, outputs.RECORD]
        about = record(summary, settings._asdict(), _curve_options(settings), files)
        outputs.write(settings.out / outputs.MAPS, outputs.archive(arrays(summary)))
        outputs.write(settings.out / outputs.REPORT, page(summary).encode())
        outputs.write(settings.out / outputs.RECORD, outputs.as_json(about))
        print(f"The report is {settings.out / outputs.REPORT}")
    else:
        say("nothing was explained, so there is no report")
    return int(bool(summary.errors) or not explained)
