"""Which registered data source fits a path, as `--data PATH` asks; or why none does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gantk.errors import UserError
from gantk.formats import files as io


def source_for(path: Path, domains: int = 2, own: str | None = None) -> dict:
    """The registered source that fits `path`, as a recipe's table: `{"name": "folders", "path": ...}`.

    `own` is the recipe's, which wins where it fits; then the more special source; a folder of one domain is for recipes
    of one domain. UserError where none fits.
    """
    from gantk.plugin.loader import registry

    general = ("folders", "nifti", "images") if domains == 2 else ("nifti", "images", "contrasts", "folders", "aligned")
    rank = {name: place for place, name in enumerate(general, start=1)} | {"phantom": 99} | {own: -1}
    entries = sorted(registry().of_kind("source"), key=lambda entry: (rank.get(entry.name, 0), entry.name))
    for entry in entries:
        accepts = getattr(entry.load(), "accepts", None)
        options = accepts(Path(path)) if accepts else None
        if options is not None:
            return {"name": entry.name, **options}
    raise UserError(nothing_fits(Path(path)), where="--data", remedy="see `gantk list source` for what there is")


def nothing_fits(path: Path) -> str:
    """Why no data source fits a path, in words."""
    if not path.exists():
        return f"'{path}' does not exist"
    if path.is_file():
        return f"'{path}' is a file; data come in folders, or in a CSV that lists them"
    images = io.list_images(path, recursive=True)
    if images:
        folders = Counter(str(image.parent.relative_to(path)) for image in images)
        held = ", ".join(f"{count} in '{name}'" for name, count in folders.most_common(6))
        return f"no data source knows what the images in '{path}' are: {held}"
    kinds = Counter(io.suffix_of(file) or "no suffix" for file in path.rglob("*") if file.is_file())
    held = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(6)) or "nothing"
    return f"'{path}' holds no images that can be read ({io.readable()}); it holds {held}"
