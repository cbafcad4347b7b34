"""Writes bench.md: a Markdown table for a README with one row for each system, and definitions beneath."""

from collections.abc import Iterable

from gantk.report.words import metric_name
from gantk_bench.columns import cells
from gantk_bench.statistics import sentences
from gantk_bench.systems import Line, Row, mapping, systems

TITLES = ("Recipe", "Direction", "PSNR / SSIM", "Best baseline", "L1 regression", "Identity", "Published, other data",
          "Verdict", "Training", "Images/s")  # fmt: skip
LONGEST = 120  # characters of a cell; bench.html has the whole text


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of rows, also of failed ones, and a legend; several seeds appear as mean (lowest to highest)."""
    groups = systems(rows)
    body = [TITLES, ["---"] * len(TITLES)]
    for system in groups:  # one row for all directions; equal cells are written once
        columns = zip(*cells(system, TITLES), strict=True)
        texts = [[_escaped(_shortened(cell.whole)) or "–" for cell in column] for column in columns]
        body.append([each[0] if len(set(each)) == 1 else "<br>".join(each) for each in texts])
        body[-1][0] = f"`{_escaped(system.name)}`"
    lines = [line for system in groups for line in system.lines]
    notes = [*_legend(lines), *(f"- {_escaped(sentence)}" for sentence in sentences(groups))]
    return "\n".join([*(f"| {' | '.join(texts)} |" for texts in body), "", *notes, ""])


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _legend(lines: list[Line]) -> list[str]:
    """The legend: what the figures are, with the definition of each metric."""
    definitions = {m: str(line.entry(m).get("definition") or "") for line in lines for m in line.main}
    seeds = max((len(line.system.rows) for line in lines), default=0)
    machines = {str(mapping(row.get("machine")).get("cpu") or "") for line in lines for row in line.system.rows} - {""}
    notes = [
        "Figures are PSNR in dB / SSIM, or what is named, on held-out images"
        + (f"; mean (lowest to highest) of up to {seeds} seeds." if seeds > 1 else "."),
        "Identity returns the input. The best baseline is that of identity, histogram matching, the best map of "
        "intensity alone and an L1 U-Net regression, the last two fitted on true training pairs, and pixel noise for "
        "images from noise.",
        "The verdict is against the best baseline, with the probability that the model is better (paired bootstrap "
        "over patients); without pairs: against the best of those that needed none.",
        *(f"{_escaped(metric_name(metric))}: `{_escaped(text)}`." for metric, text in definitions.items() if text),
        *([f"Measured on {', '.join(sorted(map(_escaped, machines)))}."] if machines else []),
    ]
    return [f"- {sentence}" for sentence in notes]


def _escaped(text: object) -> str:
    """Text on one line, with the characters escaped that have a meaning in Markdown tables and HTML."""
    escaped = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return escaped.replace("<", "&lt;")
