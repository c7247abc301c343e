"""An atlas as a site: a folder that opens from disk, and on any web host, with nothing to run.

The JSON and the arrays of a bundle are written as scripts, because a page from disk may load those and may not fetch;
see `README.md` beside this file.
"""

import shutil
from pathlib import Path

from sparks_jax.jobs import outputs
from sparks_jax.lens.bundle import LENS, as_script, images_of, read_atlas, read_class, read_lens
from sparks_jax.lens.schema import AtlasRecord

WEB = Path(__file__).parent / "web"
INDEX = "index.html"
MARK = '<html lang="en" data-files="json">'  # of the page, where the export and the server say what they are
# `file:` besides `'self'`, which is no origin on disk; nothing is allowed that is not beside the page.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' data: blob: file:; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)


def export(bundle: str | Path, out: str | Path, *, force: bool = False) -> Path:
    """Write a bundle as a site.

    Args:
        bundle: The folder of a bundle.
        out: Folder of the site.
        force: Whether a site that is there is replaced, file by file.

    Returns:
        The page to open.

    Raises:
        FileNotFoundError: If there is no bundle.
        FileExistsError: If the folder holds something, without `force`.
        SchemaError: If a file of the bundle is not what it should be.

    Example:
        >>> import tempfile
        >>> from sparks_jax.lens import synthetic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = synthetic(f"{folder}/bundle", 1, points=10, rank=2)
        ...     export(f"{folder}/bundle", f"{folder}/site").name
        'index.html'
    """
    root, out = Path(bundle), Path(out)
    lens = read_lens(root)
    outputs.check(out, force=force)
    for path in WEB.iterdir():
        outputs.write(out / path.name, _page(path) if path.name == INDEX else path.read_bytes())
    for entry in lens.atlases:
        place = Path(entry.file).parent
        scripts, pictures = _files(root / place, read_atlas(root / place))
        for file in scripts:
            _script(root, out, (place / file).as_posix())
        for file in pictures:
            _copy(root / place / file, out / place / file)
        _script(root, out, entry.file)
    _script(root, out, LENS)
    return out / INDEX


def _page(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    marked = text.replace(MARK, MARK.replace("json", "scripts"))
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return marked.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}').encode()


def _files(folder: Path, atlas: AtlasRecord) -> tuple[list[str], set[str]]:
    """Files of an atlas that become scripts, and its images, each once; what only a server reads is left out."""
    scripts = [atlas.arrays.file] if atlas.arrays else []
    pictures = {entry.cover for entry in atlas.classes if entry.cover}
    for entry in atlas.classes:
        record = read_class(folder, entry.file)
        scripts += [entry.file, record.arrays.file]
        pictures |= {image.file for image in images_of(record)}
    return scripts, pictures


def _script(root: Path, out: Path, file: str) -> None:
    outputs.write(out / f"{file}.js", as_script(file, (root / file).read_bytes()))


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
