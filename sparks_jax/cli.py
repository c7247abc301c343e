"""The command line: `sparks explain`, `evaluate`, `visualize`, `study`, `lens`, `methods` and `metrics`.

Everything heavy is imported by the command that needs it, so that `sparks --help` answers at once.
"""

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparks_jax import __version__
from sparks_jax.cli_lens import add_lens

STARTED = time.perf_counter()

EXAMPLES = """\
examples:
  sparks explain                                   photographs that come with scikit-image and scikit-learn
  sparks explain cat.jpg holiday/ --out cats       your pictures, and those of a folder
  sparks explain cat.jpg --methods sobol,rise      other methods; `sparks methods` lists them
  sparks explain cat.jpg --labels "Egyptian cat"   why (or why not) this class
  sparks explain cat.jpg --concepts                what the network saw, too
  sparks explain cat.jpg --data cats/              what it saw that other cats have
  sparks explain cat.jpg --visualize               and what these concepts look like to it
  sparks explain cat.jpg --model resnet50 --weights resnet50.pth
  sparks explain cat.jpg --model my_network.py:make --classes names.txt

The report is one page, sparks-out/report.html. Beside it lie the pictures as PNG, the arrays (maps.npz: every
map, curve and prediction) and a record (run.json: versions, settings, seconds).
"""


EVALUATE_EXAMPLES = """\
examples:
  sparks evaluate                                         the photographs that come with scikit-image and scikit-learn
  sparks evaluate holiday/ --methods sobol,rise,saliency  which method to trust on your pictures
  sparks evaluate --metrics deletion_rise,insertion_rise  by the protocol of a paper; `sparks metrics` lists them
  sparks evaluate --model my_network.py:make --out mine   your network; the same command again resumes or adds to it

The result is one page, sparks-evaluation/leaderboard.html, and its numbers (table.csv, table.json: every value of every
picture). Nothing that is there already from the same network, pictures and seed is computed again.
"""


VISUALIZE_EXAMPLES = """\
examples:
  sparks visualize                                 four classes of the network
  sparks visualize monarch "tiger shark" 292       these, by name or number
  sparks visualize tiger --model squeezenet --steps 256 --crops 16
  sparks visualize tiger --spectrum holiday/       with the magnitudes of your photographs
  sparks visualize 3 --model my_network.py:make --classes names.txt

The result is one page, sparks-visualizations/report.html; beside it lie the pictures as PNG, the arrays
(visualizations.npz) and a record (run.json). Ctrl-C keeps what there is.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `sparks`; None for those of the process.

    Returns:
        0; 1 if something could not be explained; 2 for a mistake in the arguments; 130 if interrupted.
    """
    options = _parse(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"note: {message}")
            return options.command(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options.traceback:
            raise
        mistake = isinstance(error, ValueError | OSError | ImportError)
        _say(f"error: {error}" if mistake else f"error: {error!r}; --traceback shows where it comes from")
        return 2 if mistake else 1


def _say(sentence: str) -> None:
    print(f"sparks: {sentence}", file=sys.stderr)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with pictures allowed before, between and after the options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    taken = {_explain: "images", _evaluate: "images", _visualize: "wanted"}.get(options.command)
    if unknown := [word for word in rest if word.startswith("-") or taken is None]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if taken is not None:
        getattr(options, taken).extend(rest)
    return options


# --- sparks explain ---------------------------------------------------------------------------------------


def _explain(options: argparse.Namespace) -> int:
    # Tracing a network makes millions of small objects that stay: with the usual thresholds, looking for garbage
    # among them takes a quarter of its time.
    gc.set_threshold(100_000, 20, 50)
    from sparks_jax.jobs.run import Settings, run

    given: dict[str, Any] = {name: getattr(options, name) for name in Settings._fields}
    return run(Settings(**given), say=_say, started=STARTED)


def _evaluate(options: argparse.Namespace) -> int:
    gc.set_threshold(100_000, 20, 50)
    from sparks_jax.jobs.run_evaluate import Settings, run

    return run(Settings(**{name: getattr(options, name) for name in Settings._fields}), say=_say)


def _visualize(options: argparse.Namespace) -> int:
    gc.set_threshold(100_000, 20, 50)
    from sparks_jax.jobs.run_visualize import Settings, run

    given: dict[str, Any] = {name: getattr(options, name) for name in Settings._fields}
    return run(Settings(**given), say=_say)


def _study(options: argparse.Namespace) -> int:
    from sparks_jax.jobs.study import Settings, run

    return run(Settings(**{name: getattr(options, name) for name in Settings._fields}), say=_say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparks",
        description="Explaining large vision models in JAX: where a model looks, whether to trust it.",
        epilog="`sparks explain` alone is a good start, and `sparks explain --help` says what else it takes.",
    )
    parser.add_argument("--version", action="version", version=f"sparks_jax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_explain(commands)
    _add_evaluate(commands)
    _add_visualize(commands)
    _add_study(commands)
    add_lens(commands, _say)
    methods = commands.add_parser("methods", help="list the attribution methods and what they cost")
    methods.set_defaults(command=_methods, traceback=True)
    metrics = commands.add_parser("metrics", help="list the metrics, their direction and what they ask")
    metrics.set_defaults(command=_metrics, traceback=True)
    return parser


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="explain what a network sees in pictures, on one page",
        description="Explain what a network sees in pictures, and write one page about it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sparks explain [PICTURE or FOLDER ...] [options]",
    )
    _add_what(explain.add_argument)
    _add_methods(explain.add_argument, ("sobol", "integrated_gradients", "smoothgrad", "grad_cam"))
    _add_how(explain.add_argument, Path("sparks-out"), "replace the results of an earlier run in that folder")
    explain.add_argument("--top", type=_positive, default=5, metavar="N", help="predictions shown for each picture (5)")
    explain.add_argument(
        "--concepts", action="store_true", help="what the network saw: its concepts in each picture (CRAFT)"
    )
    explain.add_argument(
        "--data",
        metavar="FOLDER",
        help="images to find the concepts in, those that the network takes for the class; it implies --concepts "
        "(without it: crops of each picture)",
    )
    explain.add_argument(
        "--visualize",
        action="store_true",
        help="make an image of what each concept looks like (MACO, 576 backward passes each); it implies --concepts",
    )
    explain.set_defaults(command=_explain)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure methods on pictures: a leaderboard with intervals",
        description="Measure how far the maps of several methods can be trusted, and write a leaderboard about it.",
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sparks evaluate [PICTURE or FOLDER ...] [options]",
    )
    _add_what(evaluate.add_argument)
    _add_methods(evaluate.add_argument, ("sobol", "integrated_gradients", "smoothgrad", "grad_cam"))
    evaluate.add_argument(
        "--metrics",
        type=_names,
        default=("deletion", "insertion", "mu_fidelity"),
        metavar="A,B",
        help="metrics (deletion,insertion,mu_fidelity)",
    )
    _add_how(
        evaluate.add_argument,
        Path("sparks-evaluation"),
        "replace an evaluation of other pictures, another network or another seed in that folder",
    )
    evaluate.set_defaults(command=_evaluate)


def _add_visualize(commands: Any) -> None:
    visualize = commands.add_parser(
        "visualize",
        help="make images of what a network looks for (MACO)",
        description="Make images that raise the score of a class, and write one page about them.",
        epilog=VISUALIZE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sparks visualize [CLASS ...] [options]",
    )
    add = visualize.add_argument
    add("wanted", nargs="*", metavar="CLASS", help="classes, by name or number; none: four that come out well")
    _add_network(add)
    add("--method", choices=("maco", "fourier"), default="maco", help="maco (the default): phases only, the magnitudes "
        "of natural images; fourier: free coefficients")  # fmt: skip
    add("--steps", type=_positive, default=128, metavar="N", help="steps for each class (128)")
    add("--crops", type=_positive, default=8, metavar="N", help="crops at each step (8)")
    add("--canvas", type=_positive, metavar="N", help="side of the images (a seventh more than the network's)")
    add("--spectrum", metavar="FILE", help="folder of photographs, or .npy, whose magnitudes MACO keeps (a formula)")
    add("--top", type=_positive, default=5, metavar="N", help="predictions shown for each image (5)")
    _add_how(add, Path("sparks-visualizations"), "replace the results of an earlier run in that folder")
    visualize.set_defaults(command=_visualize)


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="what explanations were worth to people: from the answers to a questionnaire to a page",
        description="Grade the answers that participants saved, and write one page about the Utility of each kind of "
        "explanation. `sparks_jax.jobs.questionnaire.export` makes the pages that they fill in.",
        epilog="example:\n  sparks study husky-or-wolf husky-or-wolf/answers-*.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = study.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of the study, with study.json")
    add("answers", nargs="*", type=Path, metavar="ANSWERS", help="files that participants saved, and folders of them; "
        "none: those in FOLDER")  # fmt: skip
    add(
        "--failed-checks",
        type=_natural,
        default=0,
        metavar="N",
        help="attention checks that a participant may fail (0)",
    )
    add("--min-median-time", type=_seconds, default=0.0, metavar="S", help="leave out participants whose median answer "
        "took less than S seconds (0: nobody); say so before anybody is asked")  # fmt: skip
    add("--long-time", type=_seconds, default=120.0, metavar="S", help="report answers that took more than S seconds, "
        "which count (120)")  # fmt: skip
    add("--seed", type=_natural, default=0, metavar="N", help="seed of the bootstraps and tests (0)")
    add("--quiet", action="store_true", help="say nothing of who was left out")
    add("--traceback", action="store_true", help="show where in the code an error comes from")
    study.set_defaults(command=_study)


def _add_what(add: Any) -> None:
    add(
        "images",
        nargs="*",
        metavar="PICTURE",
        help="picture files, and folders of them; none: the photographs that scikit-image and scikit-learn ship",
    )
    _add_network(add)
    add(
        "--labels",
        type=_names,
        default=(),
        metavar="A,B",
        help="class to explain, by number or name: one for all pictures or one for each (the predicted class)",
    )


def _add_network(add: Any) -> None:
    add(
        "--model",
        default="efficientnet_lite0",
        metavar="NAME",
        help="efficientnet_lite0 (the default), squeezenet, resnet18 to resnet152 with --weights, or "
        "MODULE:FUNCTION or FILE.py:FUNCTION, which returns your network: a function from images "
        "(b, h, w, 3) in [0, 1] to (b, classes)",
    )
    add("--weights", metavar="FILE", help="weights of a ResNet from torchvision or timm (.pth, .safetensors)")
    add("--classes", metavar="FILE", help="names of the classes, one per line")
    add("--size", type=_positive, metavar="N", help="side of the network's images in pixels (the network's own)")


def _add_methods(add: Any, default: tuple[str, ...]) -> None:
    names = ",".join(default)
    add("--methods", type=_names, default=default, metavar="A,B", help=f"attribution methods ({names})")


def _add_how(add: Any, out: Path, force: str) -> None:
    add("--out", type=Path, default=out, metavar="FOLDER", help=f"for the results ({out})")
    add("--force", action="store_true", help=force)
    add("--seed", type=_natural, default=0, metavar="N", help="seed of the random methods (0)")
    add(
        "--chunk",
        type=_positive,
        metavar="N",
        help="evaluations of the network at once (4 on a CPU, 64 on an accelerator); halved when memory runs out",
    )
    add("--smoke", action="store_true", help="two pictures, few samples: does everything work?")
    add("--quiet", action="store_true", help="no progress bar")
    add("--traceback", action="store_true", help="show where in the code an error comes from")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least {least}, got {text}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, at least 0, got {text}")
    return number


# --- sparks methods ---------------------------------------------------------------------------------------


def _methods(_: argparse.Namespace) -> int:
    from sparks_jax.jobs.methods import ALL, DEFAULT

    for name, method in ALL.items():
        print(f"{name:<22}{method.cost:>5} {'F + B' if method.gradients else 'F    '}  {method.means}")
    print("\nF: forward passes for a picture of 224 × 224 pixels, F + B: forward and backward passes.")
    print(f"`sparks explain` runs {', '.join(DEFAULT)} unless --methods says otherwise.")
    return 0


def _metrics(_: argparse.Namespace) -> int:
    from sparks_jax.jobs.measures import DEFAULT, MEASURES
    from sparks_jax.jobs.table import arrow

    for name, metric in MEASURES.items():
        print(f"{name:<24}{arrow(metric.higher):<3}{metric.means}")
    print("\n↑: higher is better, ↓: lower is better.")
    print(f"`sparks evaluate` takes {', '.join(DEFAULT)} unless --metrics says otherwise.")
    return 0
