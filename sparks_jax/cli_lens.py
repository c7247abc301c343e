"""The words of `sparks lens`: `serve` and `export` a bundle."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
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
    _add_serve(lens, say)
    _add_export(lens)


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
