"""Which data sets of others can be fetched by name, and on what terms: the rows of public.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("public.toml")


@dataclass(frozen=True)
class Remote:
    """One file of a set, as it is published."""

    path: str  # below the set's address
    size: int = 0  # bytes; 0: not published
    checksum: str = ""  # "sha256:...", "md5:..." or "git:..." (a git blob); "": none is published
    into: str = ""  # folder of the set that it, or what it holds, goes to


@dataclass(frozen=True)
class PublicSet:
    """A data set of others, and on what terms it may be had."""

    name: str
    about: str
    licence: str
    cite: str
    use: str = ""  # how to train on it; {folder} is where it lies
    base: str = ""  # address below which its files lie
    files: tuple[Remote, ...] = ()
    ask: str = ""  # where to ask for a set that is handed out on registration only

    @property
    def size(self) -> str:
        """How much there is to download, in words."""
        sizes = [file.size for file in self.files]
        return "on request" if self.ask else amount(sum(sizes)) if all(sizes) else "not published"


@cache
def public_sets() -> dict[str, PublicSet]:
    """The sets that are known, by name."""
    tables = tomllib.loads(TABLE.read_text("utf-8"))
    return {
        name: PublicSet(name, **table | {"files": tuple(Remote(p, **f) for p, f in table.get("files", {}).items())})
        for name, table in tables.items()
    }


def rows() -> list[tuple[str, ...]]:
    """The sets as a table: name, what it is, size, licence, where it is from or has to be asked for."""
    return [(s.name, s.about, s.size, s.licence, s.ask or s.base) for s in public_sets().values()]


def amount(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"
