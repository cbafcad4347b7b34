"""Checks the figures of a results page against their records in benchmarks/results.

A section with figures begins with a comment that names the records:

    <!-- records: dualgan-phantom.json paired-phantom.json#runs/0 -->

`#KEYS` narrows a record to one part of it. Every number with a decimal point in the section, outside
code, must then be a number of these records, rounded as it is shown, or 100 or 1000 times it (percent,
milliseconds). In a row of a table that begins with `NAME`, only parts of records that hold NAME count,
if there are any. Records so wide that they accept wrong figures too are refused.

    python tests/recorded_figures.py    # every figure that its records do not have
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
MARK = re.compile(r"^<!-- records: (.+?) -->$", re.M)
FIGURE = re.compile(r"(?<![\w.])[-−]?\d[\d,]*\.\d+(?![\w.]*\d)")
FENCES = re.compile(r"^```.*?^```", re.M | re.S)
NO_FIGURES = re.compile(r"`[^`\n]*`|torch \d+\.\d+")  # code, versions
WRITTEN = re.compile(r"<!-- [\w ]+: written by .*?<!-- end -->", re.S)  # compared as a whole
SCALES = (1.0, 100.0, 1000.0)
SHIFTS = tuple(n for n in range(-10, 11) if n)  # units of a figure's last place
MAX_ACCEPTED_SHIFTS = 0.45  # share of wrong figures that the records of a section may accept


@dataclass(frozen=True)
class Section:
    """A heading of a page with its text."""

    page: str
    title: str
    text: str

    @property
    def records(self) -> list[str]:
        found = MARK.search(self.text)
        return found[1].split() if found else []

    def figures(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each figure, with the names in code that its row begins with."""
        plain = WRITTEN.sub("", FENCES.sub("", self.text))
        for line in plain.splitlines():
            names: tuple[str, ...] = ()
            if line.startswith("|"):
                names = tuple(re.findall(r"`([\w.]+)`", line.split("|")[1]))
            for figure in FIGURE.findall(NO_FIGURES.sub("", line)):
                yield figure, names


def sections(page: Path) -> list[Section]:
    """The sections of a page that show figures."""
    text = page.read_text("utf-8")
    fenced = FENCES.sub(lambda found: found[0].replace("\n#", "\n "), text)  # comments in code
    parts = re.split(r"^(?=#+ )", fenced, flags=re.M)
    found = [Section(page.name, part.partition("\n")[0], part) for part in parts if part]
    return [section for section in found if any(True for _ in section.figures())]


def unmatched(section: Section) -> list[str]:
    """The figures of a section that none of its records has."""
    return [
        figure
        for figure, names in section.figures()
        if not has(numbers_for(tuple(section.records), names), *parsed(figure))
    ]


def accepted_shifts(section: Section) -> float:
    """The share of wrong figures, some units away from each figure, that the records accept."""
    accepted = [
        has(numbers_for(tuple(section.records), names), value + shift * unit, unit)
        for figure, names in section.figures()
        for value, unit in [parsed(figure)]
        for shift in SHIFTS
    ]
    return sum(accepted) / max(1, len(accepted))


def parsed(figure: str) -> tuple[float, float]:
    """(value, unit of its last place) of a figure as it is shown."""
    text = figure.replace(",", "").replace("−", "-")
    return float(text), 10.0 ** -len(text.partition(".")[2])


def has(numbers: tuple[float, ...], value: float, unit: float) -> bool:
    """Whether one of the sorted numbers, or 100 or 1000 times it, rounds to the value."""
    for scale in SCALES:
        half = (0.5 + 1e-6) * unit / scale
        place = bisect_left(numbers, value / scale - half)
        if place < len(numbers) and numbers[place] <= value / scale + half:
            return True
    return False


@cache
def numbers_for(records: tuple[str, ...], names: tuple[str, ...]) -> tuple[float, ...]:
    """The sorted numbers of records; of their parts that hold all names, if there are any."""
    wholes = [content(record) for record in records]
    parts = [part for whole in wholes for part in holding(whole, names)] if names else []
    return tuple(sorted({number for part in parts or wholes for number in leaves(part)}))


@cache
def content(record: str) -> Any:
    """A record, or the part of it that `#KEYS` names."""
    name, _, keys = record.partition("#")
    text = (RESULTS / name).read_text("utf-8")
    whole = json.loads(text) if name.endswith(".json") else [*map(json.loads, text.splitlines())]
    for key in filter(None, keys.split("/")):
        whole = whole[int(key)] if isinstance(whole, list) else whole[key]
    return whole


def holding(part: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """The smallest parts of a record whose own texts or keys hold all names."""
    if isinstance(part, dict):
        own = {str(key) for key in part} | {x for x in part.values() if isinstance(x, str)}
        words = {word for text in own for word in re.findall(r"[\w.]+", text)}
        if set(names) <= words:
            inner = [part[name] for name in names if isinstance(part.get(name), dict | list)]
            yield from inner or [part]
            return
    if isinstance(part, dict | list):
        for each in part.values() if isinstance(part, dict) else part:
            yield from holding(each, names)


def leaves(part: Any) -> Iterator[float]:
    """Every number of a record, those in texts too."""
    if isinstance(part, dict | list):
        for each in part.values() if isinstance(part, dict) else part:
            yield from leaves(each)
    elif isinstance(part, str):
        yield from map(float, re.findall(r"(?<![\w.])-?\d+\.\d+(?![\w.])", part))
    elif isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part):
        yield float(part)


def main() -> None:
    """Print every figure that its records do not have."""
    for page in sorted(RESULTS.glob("*.md")):
        for section in sections(page):
            if section.records and (wrong := unmatched(section)):
                print(f"{page.name}, {section.title}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
