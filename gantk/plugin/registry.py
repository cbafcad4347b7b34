"""Maps (kind, name) to an entry: every part of gantk, its own or a third party's, with the
distribution it is from.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import Any

from gantk.errors import UserError, did_you_mean, line_of, one_line
from gantk.plugin.layout import Layout
from gantk.plugin.summary import summary_of

KINDS = {
    "method": "a model to train, with its losses",
    "generator": "a network that maps images to images",
    "discriminator": "a network that maps images to logits, real or fake",
    "loss": "adversarial, reconstruction, structure and style losses",
    "source": "a reader of image folders, tables and other data",
    "layout": "a pattern of file names: patient, visit, contrast, slice",
    "format": "a reader and writer of one image file format",
    "intensity": "a mapping from native intensities to network values and back",
    "augment": "a random change of training images",
    "order": "the choice of unpaired images that share a batch",
    "metric": "a score of one image against its truth, or of a set of images against real ones",
    "features": "a network that maps images to vectors, to compare sets of images",
    "baseline": "a simple map from source to target that a model must beat",
    "post": "a post-step: a change of finished images, after the networks",
    "exporter": "an export of a trained model to a file for other programs",
    "tracker": "a link to a program that shows curves, samples, scores and the report",
    "optimizer": "an update rule for weights",
    "schedule": "the course of the learning rate over the training",
}

OWN = "gantk"  # the distribution of the bundled plugins
FUNCTION = "function"  # of the Python interface, `gantk.NAME`; no part of a recipe
PACKAGES = ("recipes", "suites", "models")  # registered as whole packages, see `gantk_register`


@dataclass
class Plugin:
    """One entry point: its name, its distribution, and the error that stopped it from loading
    (None: it loaded).
    """

    name: str
    distribution: str
    version: str
    problem: str | None = None
    module: str = ""
    summary: str = ""  # the first sentence of the module's docstring
    disabled: bool = False  # the user left it out; `problem` says where


@dataclass(frozen=True)
class Entry:
    """One registered name: its kind, its target (a callable, or "package.module:attribute") and its
    distribution.
    """

    kind: str
    name: str
    target: Callable[..., Any] | Layout | str
    owner: str  # the distribution that registered it
    override: bool = False  # whether it takes the place of another distribution's entry
    replaced: str = ""  # the distribution whose entry it took the place of
    also: tuple[str, ...] = ()  # names in other toolkits, for suggestions only
    # plain name and meaning, of a metric by the names of its scores
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)  # options for tests that take seconds
    usual_steps: int = 0  # steps of a method's recipes
    plan: str = ""  # "module:function" that proposes a method, mapping or changes for scans
    section: str = ""  # of a report, for the scores of a metric
    trains: bool = False  # whether a metric trains networks, which takes time
    paper: str = ""  # of a method, to be cited: authors, title, venue, and arXiv number or DOI

    @property
    def summary(self) -> str:
        """What the part is, in a sentence; "" if that is not known."""
        return summary_of(self.target)

    def load(self) -> Any:
        """The target, imported first if it is a string; UserError that names the owner where that
        fails.
        """
        try:
            loaded = resolve_name(self.target) if isinstance(self.target, str) else self.target
            if not callable(loaded) and not isinstance(loaded, Layout):
                raise TypeError(f"it is of type {type(loaded).__name__}, not a class or a function")

            return loaded
        except Exception as error:
            raise self.refusal(f"cannot be loaded from '{self.target}'", error) from error

    def refusal(self, what: str, error: Exception) -> UserError:
        """The error for a part that is not what its kind has to be: what is wrong, in which line,
        and whose part it is.
        """
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        what = f"the {self.kind} '{self.name}' {what}: {name}{one_line(error)}"
        place = self._place(error)
        return UserError(
            what,
            where=", ".join(filter(None, [place, f"offered by {self.owner}"])),
            remedy=f"correct the {self.kind} in its file, or uninstall the package; `gantk plugins` lists all"
            " plugins",
        )

    def _place(self, error: Exception) -> str:
        """The line of the package that raised an error, as `file:line`, else the file of the part;
        "" if unknown.
        """
        target = self.target
        named = target if isinstance(target, str) else getattr(target, "__module__", "")
        module = named.partition(":")[0]
        _, place = line_of(error, [module.partition(".")[0]])
        return place or getattr(sys.modules.get(module), "__file__", None) or ""


NO_SUCH_PART = "no_such_part"  # `kind` of the error for an unknown name

# Names of earlier versions, which recipes and runs may contain -> the current name.
EARLIER_NAMES = {("source", name): "files" for name in ("folders", "images", "nifti", "contrasts")}


@dataclass(repr=False)
class Registry:
    """All entries, by kind and name; iterating gives the kinds, and `registry["loss"]` the names of
    one kind.
    """

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    packages: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {kind: [] for kind in PACKAGES}
    )
    # plugin -> the error that stopped it from loading
    broken: dict[str, str] = field(default_factory=dict)
    # values computed from the entries; cleared by `add`
    cache: dict[str, Any] = field(default_factory=dict)

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the entries of a plugin; UserError, and none of them, where a name is in use and the
        entry does not override another distribution's.
        """
        added: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            key = (entry.kind, entry.name)
            known = added.get(key) or self.entries.get(key)
            if known and (known.override or not entry.override):
                raise UserError(
                    f"the {entry.kind} '{entry.name}' is already offered by {known.owner}",
                    remedy="rename one of them, or add override=True to replace one of gantk's",
                )
            added[key] = replace(entry, replaced=known.owner) if known else entry
        self.entries |= added
        self.cache.clear()

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __getitem__(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return [entry.name for entry in self.of_kind(kind)]

    def __repr__(self) -> str:
        """One line for each kind, with its names."""
        width = max(map(len, KINDS))
        return "\n".join(f"{kind:<{width}}  {', '.join(self[kind])}" for kind in self)

    def overrides(self) -> list[Entry]:
        """The entries that took the place of another distribution's, by kind and name."""
        return [entry for _, entry in sorted(self.entries.items()) if entry.replaced]

    def metric_of(self, score: str) -> Entry | None:
        """The metric whose score has this name, such as kid of `kid_inception`; None if unknown."""
        for name in (score, score.partition("_")[0]):
            for entry in self.of_kind("metric"):
                if name in entry.words or name == entry.name:
                    return entry
        return None

    def words(self, kind: str) -> dict[str, tuple[str, str]]:
        """Plain name and meaning of the parts of a kind, of metrics by the names of their scores; of
        one without words "" and its summary.
        """
        known: dict[str, tuple[str, str]] = {}
        for entry in self.of_kind(kind):
            known |= entry.words or {entry.name: ("", entry.summary)}
        return known

    def _suggestion(self, kind: str, name: str, fitting: Sequence[str]) -> str | None:
        """`Did you mean 'ls'?` for a name that another toolkit gives to a part, or with the closest
        spelling; None where nothing is close. Of its kind, only `fitting` ones; no part stands for a
        method.
        """
        spelling = re.sub("[- ]", "_", name.strip().lower())
        also = {key: entry for key, entry in sorted(self.entries.items()) if spelling in entry.also}
        found = [f"'{own}'" for each, own in also if each == kind and own in fitting]
        if not found and kind != "method":
            found = [f"the {each} '{own}'" for each, own in also if each != kind]
        return f"Did you mean {' or '.join(found)}?" if found else did_you_mean(name, fitting)

    def of_kind(self, kind: str) -> list[Entry]:
        """All entries of a kind, by name; UserError where there is no such kind."""
        if kind not in KINDS:
            raise UserError(
                f"there is no kind of part '{kind}'",
                allowed=KINDS,
                remedy=did_you_mean(kind, KINDS),
            )
        return [entry for (each, _), entry in sorted(self.entries.items()) if each == kind]

    def get(self, kind: str, name: str, fitting: Callable[[], list[str]] | None = None) -> Entry:
        """The entry of that name; UserError with the nearest spelling, and plugins that failed.
        `fitting`: which names may be advised, if not all of the kind.
        """
        if (kind, name) not in self.entries:
            name = EARLIER_NAMES.get((kind, name), name)
        if (kind, name) in self.entries:
            return self.entries[kind, name]

        names = [entry.name for entry in self.of_kind(kind)]
        if fitting:
            names = fitting()
        notes = "; ".join(
            f"the plugin '{plugin}' did not load: {why}" for plugin, why in self.broken.items()
        )
        remedy = self._suggestion(kind, name, names) or ""
        if notes:
            remedy = f"{remedy} Note that {notes}".lstrip()
        error = UserError(f"there is no {kind} '{name}'", allowed=names, remedy=remedy)
        error.kind = NO_SUCH_PART
        raise error


class Add:
    """The argument of a plugin's `gantk_register(add)`: one function per kind, and `recipes`,
    `suites`, `models`.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._entries: list[Entry] = []
        self._packages: list[tuple[str, str]] = []

    def __getattr__(self, kind: str) -> Callable[..., None]:
        if kind in PACKAGES:
            return lambda package: self._packages.append((kind, package))
        if kind not in (*KINDS, FUNCTION):
            raise AttributeError(
                f"add.{kind} does not exist; the functions are"
                f" {', '.join(f'add.{k}' for k in KINDS)}"
            )
        return functools.partial(self._add_part, kind)

    def _add_part(
        self,
        kind: str,
        name: str,
        target: Callable[..., Any] | Layout | str | None = None,
        *,
        override: bool = False,
        **about: Any,
    ) -> None:
        """Keep a part; `about` has keys of `Entry`, from `also` on."""
        if not isinstance(name, str) or target is None:
            raise TypeError(
                f'add.{kind} needs a name and a part: add.{kind}("name",'
                ' "package.module:attribute")'
            )

        if kind == "layout" and isinstance(target, str):
            target = Layout(target, about.pop("text", ""), words=about.pop("words", {}))
        self._entries.append(Entry(kind, name, target, self._owner, override, **about))

    def commit(self, registry: Registry) -> None:
        """Add all collected entries to the registry: called once the plugin has loaded without an
        error.
        """
        registry.add(self._entries)
        for kind, package in self._packages:
            registry.packages[kind].append((package, self._owner))
