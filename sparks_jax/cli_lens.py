"""The words of `sparks lens`: `build`, `serve` and `export` a bundle."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  sparks lens build                                two small atlases of what is at hand, and the page opens
  sparks lens build --data photos/ --model resnet50 --weights resnet50.pth
  sparks lens serve lens-bundle                    the page, with your own photographs
  sparks lens serve lens-bundle --browser          and open it
  sparks lens export lens-bundle --out site        a folder for any web host, or to open from disk
"""


def add_lens(commands: Any, say: Callable[[str], None]) -> None:
    """Add `sparks lens` to the commands.

    Args:
        commands: Of the parser.
        say: Takes sentences for the user.
    """
    lens = commands.add_parser(
        "lens",
        help="one interactive picture of a whole model, class by class",
        description="One interactive picture of a whole model: what it uses for each class, where, and how reliably.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_build(lens, say)
    _add_serve(lens, say)
    _add_export(lens)


BUILD_EXAMPLES = """\
examples:
  sparks lens build                                ImageNet photographs and the glyph world, whose truth is known
  sparks lens build --data photos/                 a folder of class folders: their names are the true classes
  sparks lens build --data imagenet_v2 --split test --model resnet50 --weights resnet50.pth
  sparks lens build --data photos/ --model my_network.py:make --classes names.txt --most 100 --rank 10

What it will take is said first. A build that was killed goes on where it was: give the same command again. With
--distributed as many processes share a build as a cluster starts (Slurm, MPI, Kubernetes, TPU) and see --out.
"""


def _add_build(lens: Any, say: Callable[[str], None]) -> None:
    build = lens.add_parser(
        "build",
        help="make a bundle: what a network uses for each class of your images",
        description="Find out what a network uses for each class of images, and write a bundle about it.",
        epilog=BUILD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = build.add_argument
    add("--data", metavar="DATA", help="folder of class folders, or a data set of TFDS (photographs at hand)")
    add("--split", default="train", help="of a data set of TFDS (train)")
    add("--model", metavar="NAME", help="the network, as for `sparks explain` (efficientnet_lite0)")
    add("--weights", metavar="FILE", help="its weights")
    add("--classes", metavar="FILE", help="names of its classes, one per line")
    add("--size", type=int, metavar="N", help="side of its images in pixels (its own)")
    add("--out", type=Path, default=Path("lens-bundle"), metavar="FOLDER", help="of the bundle (lens-bundle)")
    add("--name", help="of the atlas in it, where there may be several")
    add("--title", help="of the atlas, for people")
    add("--only", metavar="A,B", help="classes, by number or name (all that have images)")
    for flag, what in BUILD_NUMBERS.items():
        add(flag, type=int, metavar="N", help=what)
    add("--view", choices=("crops", "positions"), help="what is factorized (crops)")
    add("--crop", type=float, metavar="SHARE", help="side of a crop over that of the image (0.29)")
    methods = ("sobol", "rise", "occlusion")
    add("--black-box", choices=methods, help="also maps of what hiding parts of an image changes (none)")
    add("--force", action="store_true", help="replace an atlas of another network, other images or settings")
    add("--distributed", action="store_true", help="share the classes among processes: the same command in each")
    add("--smoke", action="store_true", help="few classes, images and steps: does everything work?")
    add("--quiet", action="store_true", help="no progress")
    add("--open", action=argparse.BooleanOptionalAction, help="show the bundle in a browser at the end")
    add("--traceback", action="store_true", help="show where in the code an error comes from")

    def command(options: argparse.Namespace) -> int:
        from sparks_jax.lens.build import run

        return run(options, say=say)

    build.set_defaults(command=command)


BUILD_NUMBERS = {
    "--rank": "concepts of a class (10)",
    "--most": "images of a class, at most (300)",
    "--least": "images that a class needs (10)",
    "--max-classes": "classes, those with most images (all)",
    "--pictures": "concepts of each class that are made visible by MACO (10)",
    "--picture-steps": "steps of each (128)",
    "--picture-crops": "crops at each step (8)",
    "--picture-size": "side of what the network is shown of them, in pixels (its own)",
    "--parts": "concepts of each class that are taken apart at an earlier layer (1)",
    "--exhibits": "images of each class that are shown large, with maps (4)",
    "--at-once": "classes factorized by one call on each device (4)",
    "--chunk": "images at once on each device (4 on a CPU, 64 on an accelerator)",
    "--seed": "of all that is random (0)",
}


def _add_serve(lens: Any, say: Callable[[str], None]) -> None:
    serve = lens.add_parser("serve", help="show a bundle on this computer, with your own photographs")
    add = serve.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="its folder")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen at; others than this computer's ask for a token (127.0.0.1)",
    )
    add("--port", type=int, default=8765, help="0 for any that is free (8765)")
    add(
        "--model", metavar="NAME", help="network of atlases that name none of the bundled ones, as for `sparks explain`"
    )
    add("--weights", metavar="FILE", help="its weights")
    add("--static", action="store_true", help="only show the bundle, and load no network")
    add("--browser", action="store_true", help="open the page")
    add("--traceback", action="store_true", help="show where in the code an error comes from")

    def command(options: argparse.Namespace) -> int:
        from sparks_jax.lens.server_run import Settings, run

        return run(Settings(**{name: getattr(options, name) for name in Settings._fields}), say=say)

    serve.set_defaults(command=command)


def _add_export(lens: Any) -> None:
    export = lens.add_parser("export", help="a folder that opens from disk and on any web host")
    add = export.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="its folder")
    add("--out", type=Path, default=Path("lens-site"), metavar="FOLDER", help="of the site (lens-site)")
    add("--force", action="store_true", help="replace a site that is there")
    add("--traceback", action="store_true", help="show where in the code an error comes from")

    def command(options: argparse.Namespace) -> int:
        from sparks_jax.lens.server_run import write_site

        return write_site(options.bundle, options.out, force=options.force)

    export.set_defaults(command=command)
