"""The published system of a recipe: where a run departs from it, and which of its figures may stand
beside the run's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gantk.recipe.departures import ON, departures, value_at, value_text
from gantk.recipe.load import leaves, mapping

MAX_NAMED_KEYS = 3  # in one sentence
# What makes a system that system: its networks, losses, inputs, regularisation and optimizers. Not
# the length of a training, its batches, and which images of which size it has.
SYSTEM_KEYS = (
    "method",
    "post",
    "data.domains",
    "data.channels",
    "data.neighbours",
    "data.labels",
    "data.mask",
    "data.intensity",
    "data.augment",
    "train.start",
    "train.optimizer",
    "train.optimizers",
    "train.schedule",
    "train.ema",
)


@dataclass(frozen=True)
class PublishedSystem:
    """The published system that a recipe's table `[paper]` describes, compared with a run.

    Attributes:
        title: title of the report, with authors and year if the recipe names them.
        system: the system in words; "" if the recipe does not describe it.
        data: the data of the report in words; "" if the recipe does not describe them.
        stated: dotted keys of the settings that the report states.
        named: those of `stated` that are on, with a weight that the report does not state.
        ours: dotted keys that the report leaves open and the recipe chooses.
        departures: dotted key -> (the report's value, the run's value), as texts.
        other_system: keys that make the run another system than the published one, see
            `keys_of_another_system`.
        figures: published scores by direction and metric, such as `figures["a_to_b"]["psnr"]`.
        undefined: published figures whose direction and definition the report does not give.
    """

    title: str
    system: str
    data: str
    stated: tuple[str, ...]
    named: tuple[str, ...]
    ours: tuple[str, ...]
    departures: dict[str, tuple[str, str]]
    other_system: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    undefined: dict[str, float]

    @property
    def other_settings(self) -> tuple[str, ...]:
        """Keys in which the same system was trained, or its data were prepared, in another way."""
        return tuple(key for key in self.departures if key not in self.other_system)

    def in_short(self) -> str:
        """One sentence on how far the run is the published system."""
        keys = list(dict.fromkeys([*self.departures, *self.other_system]))
        if not keys:
            all_of_them = f"all {len(self.stated)} settings that the report states"
            chosen = f"; {len(self.ours)} that it leaves open are ours" if self.ours else ""
            return f"published system: {all_of_them} are kept{chosen}"

        named = ", ".join(keys[:MAX_NAMED_KEYS])
        if len(keys) > MAX_NAMED_KEYS:
            named += ", ..."
        if self.other_system:
            return f"another system than the published one ({named}); report.html lists how"
        count = f"{len(keys)} of {len(self.stated)}"
        return (
            f"differs from the published system in {count} stated settings ({named}); report.html"
            " lists them"
        )

    def beside(self, direction: str) -> dict[str, float]:
        """The published scores that may stand beside the run's scores of a direction: those of the
        same system in the same direction.
        """
        return {} if self.other_system else self.figures.get(direction, {})

    def beside_all(self) -> dict[str, Any]:
        """All published figures that may stand beside the run: scores by direction, and those that
        the report does not define.
        """
        return {} if self.other_system else self.figures | self.undefined


def keys_of_another_system(departed: Iterable[str], changed: Iterable[str] = ()) -> tuple[str, ...]:
    """Those of the keys that make a run another system than the published one: published figures may
    stand beside a run that has none.

    Args:
        departed: keys in which the run differs from what the report states.
        changed: keys that the run changed in its recipe, where the report says nothing of them and
            leaves nothing open.
    """
    return tuple(
        key for key in dict.fromkeys([*departed, *changed]) if _is_within(key, SYSTEM_KEYS)
    )


def published_system(
    tables: Mapping[str, Any], changed: Collection[str] = ()
) -> PublishedSystem | None:
    """The published system of a run; None if its recipe names none.

    Args:
        tables: the run's recipe with every default.
        changed: keys whose values differ from those of the recipe's file.
    """
    paper = mapping(tables.get("paper"))
    title = paper.get("title")
    if not isinstance(title, str) or not title:
        return None

    stated = mapping(paper.get("stated"))
    keys = {".".join(path): value_at(stated, path) for path in leaves(stated)}
    ours = tuple(map(str, paper.get("ours") or ()))
    differences = departures(stated, tables)
    known = [*keys, *ours]
    beyond = [key for key in changed if not _is_within(key, known) and not _holds(key, known)]

    figures: dict[str, dict[str, float]] = {}
    undefined: dict[str, float] = {}
    for name, value in mapping(paper.get("published")).items():
        if _is_number(value):
            undefined[name] = value
        elif isinstance(value, Mapping):
            figures[name] = {metric: each for metric, each in value.items() if _is_number(each)}

    return PublishedSystem(
        title=", ".join([title, *_authors_and_year(paper)]),
        system=str(paper.get("system") or ""),
        data=str(paper.get("data") or ""),
        stated=tuple(keys),
        named=tuple(key for key, value in keys.items() if value == ON),
        ours=ours,
        departures={
            key: (value_text(theirs), value_text(here))
            for key, (theirs, here) in differences.items()
        },
        other_system=keys_of_another_system(differences, beyond),
        figures=figures,
        undefined=undefined,
    )


def _is_within(key: str, others: Iterable[str]) -> bool:
    """Whether a key is one of the others, or lies in one of their tables."""
    return any(f"{key}.".startswith(f"{other}.") for other in others)


def _holds(key: str, others: Iterable[str]) -> bool:
    """Whether one of the others lies in the table of a key."""
    return any(other.startswith(f"{key}.") for other in others)


def _authors_and_year(paper: Mapping[str, Any]) -> list[str]:
    authors = paper.get("authors") or ""
    if isinstance(authors, list):
        authors = ", ".join(map(str, authors))
    return [str(each) for each in (authors, paper.get("year")) if each]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
