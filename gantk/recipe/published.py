"""The published system of a recipe: where a run departs from it, and which of its figures may stand
beside the run's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gantk.recipe.departures import departures, value_text
from gantk.recipe.load import leaves, mapping

MAX_NAMED_KEYS = 3  # in one sentence
DOMAINS = "data.domains"  # other domains: the figures are of other directions


@dataclass(frozen=True)
class PublishedSystem:
    """The published system that a recipe's table `[paper]` describes, compared with a run.

    Attributes:
        title: title of the report, with authors and year if the recipe names them.
        system: the system in words; "" if the recipe does not describe it.
        data: the data of the report in words; "" if the recipe does not describe them.
        stated: dotted keys of the settings that the report states.
        ours: dotted keys that the report leaves open and the recipe chooses.
        departures: dotted key -> (the report's value, the run's value), as texts.
        other_system: keys in which the run is another system than the published one: stated
            settings of the method, and the domains.
        figures: published scores by direction and metric, such as `figures["a_to_b"]["psnr"]`.
        undefined: published figures whose direction and definition the report does not give.
    """

    title: str
    system: str
    data: str
    stated: tuple[str, ...]
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
        if not self.departures:
            all_of_them = f"all {len(self.stated)} settings that the report states"
            chosen = f"; {len(self.ours)} that it leaves open are ours" if self.ours else ""
            return f"published system: {all_of_them} are kept{chosen}"

        keys = list(self.departures)
        named = ", ".join(keys[:MAX_NAMED_KEYS])
        if len(keys) > MAX_NAMED_KEYS:
            named += ", ..."
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
    differences = departures(stated, tables, filled_in=True)
    other_system = [key for key in differences if key.startswith("method.") or key == DOMAINS]
    if DOMAINS in changed and DOMAINS not in other_system:
        other_system.append(DOMAINS)

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
        stated=tuple(".".join(path) for path in leaves(stated)),
        ours=tuple(map(str, paper.get("ours") or ())),
        departures={
            key: (value_text(theirs), value_text(here))
            for key, (theirs, here) in differences.items()
        },
        other_system=tuple(other_system),
        figures=figures,
        undefined=undefined,
    )


def _authors_and_year(paper: Mapping[str, Any]) -> list[str]:
    authors = paper.get("authors") or ""
    if isinstance(authors, list):
        authors = ", ".join(map(str, authors))
    return [str(each) for each in (authors, paper.get("year")) if each]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
