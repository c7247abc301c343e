"""`lens.build`: the atlas of any network on any images; without a word, two small ones that show what there is."""

import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import sparks_jax.lens.sources as sources
from sparks_jax.jobs.network import Network, load_network
from sparks_jax.lens.atlas import Say, Title, build_atlas
from sparks_jax.lens.settings import GLYPHS, PHOTOGRAPHS, SMOKE, Settings
from sparks_jax.lens.sources import Source

OUT = "lens-bundle"
IMAGENET, GLYPH_NET = "efficientnet_lite0", "glyphs"
NUM_GLYPHS = 600


def build(
    out: str | Path = OUT,
    *,
    model: str | Network | None = None,
    data: str | Source | None = None,
    weights: str | None = None,
    classes: str | None = None,
    size: int | None = None,
    split: str = "train",
    name: str | None = None,
    title: str | None = None,
    force: bool = False,
    smoke: bool = False,
    quiet: bool = False,
    devices: Sequence[Any] | None = None,
    say: Say | None = None,
    **settings: Any,
) -> Path:
    """Build a bundle: what a network uses for each class, from its images; a build that was killed goes on.

    Without a network and images: an atlas of EfficientNet-Lite0 on squares of six photographs, and one of the glyph
    world's network on 600 of its images, whose truth is known. Another atlas joins those that are in the bundle.

    Args:
        out: Folder of the bundle.
        model: As of the command line, `"resnet50"`, `"my_network.py:make"`; or a `jobs.network.Network`.
        data: A folder of class folders, the name of a data set of TFDS, or a `sources.Source`; None for what is at
            hand.
        weights: File of weights, for a network that needs one.
        classes: File of class names.
        size: Side of the network's images; None for its own.
        split: Of a data set of TFDS.
        name: Of the folder of the atlas; None: made from those of the network and the images.
        title: Of the atlas.
        force: Whether an atlas of the same name, but of another network, other images or settings, is replaced.
        smoke: A quick, rough build: few classes, images and steps.
        quiet: No progress.
        devices: Over which classes and images are spread; None for all of this process.
        say: Takes sentences; None prints them on stderr.
        **settings: Of `settings.Settings`: `rank`, `most`, `pictures`, …

    Returns:
        The folder of the bundle.

    Raises:
        ValueError: For settings out of range, a network without halves, images that make no class.
        FileExistsError: If the folder of the atlas holds another, without `force`.
        TypeError: For a setting that there is not.
    """
    if unknown := set(settings) - set(Settings._fields):
        raise TypeError(f"build: there is no setting {sorted(unknown)[0]!r}, only {', '.join(Settings._fields)}")
    root, say = Path(out), say or _say
    wanted = [(IMAGENET, None), (GLYPH_NET, None)] if model is None and data is None else [(model or IMAGENET, data)]
    for one, images in wanted:
        network = load_network(one, weights=weights, classes=classes, size=size) if isinstance(one, str) else one
        source, defaults = _images(one, images, network, split)
        asked = Settings(**{**defaults, **(SMOKE if smoke else {}), **settings})
        if smoke and model is None and data is None and one == IMAGENET:
            asked = asked._replace(least=min(asked.least, 3))
        id = name or (source.name if images is None and not isinstance(one, Network) else _slug(network, source))
        called = Title(_clean(id), title or f"{network.name} on {source.name}", one if isinstance(one, str) else None)
        build_atlas(root, called, network, source, asked, force=force, quiet=quiet, devices=devices, say=say)
    return root


def run(options: Any, *, say: Say) -> int:
    """`sparks lens build`.

    Args:
        options: Of the command line.
        say: Takes sentences.

    Returns:
        0.
    """
    # Tracing makes millions of small objects that stay: looking for garbage among them takes a quarter of its time.
    gc.set_threshold(100_000, 20, 50)
    if options.distributed:
        _join()
    given = {name: getattr(options, name, None) for name in Settings._fields}
    given["only"] = tuple(part.strip() for part in options.only.split(",")) if options.only else None
    given = {name: value for name, value in given.items() if value is not None}
    names = ("model", "data", "weights", "classes", "size", "split", "name", "title", "force", "smoke", "quiet")
    folder = build(options.out, say=say, **{name: getattr(options, name) for name in names}, **given)
    if jax.process_index() > 0:
        return 0
    print(f"The bundle is {folder}: sparks lens serve {folder} --browser")
    at_hand = options.model is None and options.data is None and sys.stdout.isatty()
    if at_hand if options.open is None else options.open:
        from sparks_jax.lens.server_run import Settings as Served
        from sparks_jax.lens.server_run import run as serve

        return serve(Served(folder, browser=True), say=say)
    return 0


def _join() -> None:
    """Find the other processes of the build."""
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            "--distributed finds no cluster here (Slurm, MPI, Kubernetes, TPU); elsewhere call "
            "jax.distributed.initialize(address, count, index) and lens.build(…) in a program"
        ) from error


def _images(
    model: str | Network, data: str | Source | None, network: Network, split: str
) -> tuple[Source, dict[str, Any]]:
    """The images, and the settings that suit them."""
    if isinstance(data, Source):
        return data, {}
    if data is not None:
        return sources.open_source(data, network.classes, split=split), {}
    if model == GLYPH_NET:
        return sources.glyph_world(NUM_GLYPHS), GLYPHS
    return sources.photographs(), PHOTOGRAPHS


def _slug(network: Network, source: Source) -> str:
    return f"{source.name}-{network.name}"


def _clean(text: str) -> str:
    """A name that is fit for a folder and a link.

    Example:
        >>> _clean("ImageNet v2 / ResNet-50")
        'imagenet-v2-resnet-50'
    """
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_") or "atlas"


def _say(sentence: str) -> None:
    print(f"sparks: {sentence}", file=sys.stderr)
