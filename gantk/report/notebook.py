"""Shows a run in a notebook: its scores next to those of the best baseline, and a row of pictures."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.files import read_file
from gantk.metrics.rows import TABLE_HEADS, score_rows
from gantk.report.words import direction_name
from gantk.runs.folder import RunFolder
from gantk.runs.results import Results
from gantk.runs.schemas import is_inside, read_results

if TYPE_CHECKING:
    from gantk.inference.model import TrainedModel

MAX_IMAGES = 4  # held-out images of one direction, each as input, generated and real image
CELL = "padding: 2px 12px 2px 0; text-align: left; background: none; color: inherit; border: 0"


class Run(RunFolder):
    """A finished or running training, by its folder. In a notebook it shows its scores and
    pictures.

    Example:

        run = gantk.Run("runs/NAME-TIME")
        run.metrics["a_to_b"]["psnr"]["value"]
        pandas.DataFrame(run.log).plot("step", "losses.generators/cycle_a")
        t2 = run.load().translate(t1)
    """

    def load(self, device: str | None = None) -> TrainedModel:
        """Load the trained model: `run.load().translate(array)`. See `gantk.load`."""
        from gantk.inference.load import load_model

        return load_model(self.path, device)

    def _repr_html_(self) -> str:
        return run_html(self)


def run_html(run: RunFolder) -> str:
    """The HTML of `Run._repr_html_`: it sets only spacing, so that the notebook's light or dark
    colours apply.
    """
    results = read_results(run.path)
    domains = results.domains or run.recipe().tables.get("data", {}).get("domains", [])
    parts = [
        f"<div><b>{html.escape(repr(run))}</b></div>",
        _scores(results, domains),
        _pictures(run, domains),
    ]
    if run.report.is_file():
        parts.append(f"<div>report: <code>{html.escape(str(run.report))}</code></div>")

    return "\n".join(filter(None, parts))


def _scores(results: Results, domains: list[str]) -> str:
    """The table of scores beside the best baseline's."""
    names = (*TABLE_HEADS, "verdict")
    head = "".join(f'<th style="{CELL}; font-weight: bold">{name}</th>' for name in names)
    rows = [head]
    for row in score_rows(results):
        verdict = row.words if row.tone else ""
        cells = [*row.cells(direction_name(row.key, domains)), verdict]
        rows.append("".join(f'<td style="{CELL}">{html.escape(cell)}</td>' for cell in cells))

    if len(rows) == 1:
        return "<div>not scored yet</div>"

    body = "".join(f'<tr style="background: none">{row}</tr>' for row in rows)
    return f'<table style="border-collapse: collapse; margin: 6px 0">{body}</table>'


def _pictures(run: Any, domains: list[str]) -> str:
    """The last step's outputs in a row, each between its input and its truth."""
    samples = list(run.samples.items())
    if not samples:
        return ""

    step, outputs = samples[-1]
    figures = []
    for path in outputs:
        direction, _, number_of_image = path.stem.rpartition("-")
        title = direction_name(direction, domains)
        count = MAX_IMAGES if len(outputs) <= MAX_IMAGES else 1
        if int(number_of_image) >= count:
            continue

        groups = {"input": "input", path.parent.name: f"step {step}", "truth": "real"}
        for group, words in groups.items():
            picture = run.path / "samples" / group / path.name
            if is_inside(run.path, picture):
                figures.append(_figure(picture, f"{title}: {words}"))

    if not figures:
        return ""

    row = "display: flex; flex-wrap: wrap; gap: 8px; margin: 6px 0"
    return f'<div style="{row}">{"".join(figures)}</div>'


def _figure(picture: Path, words: str) -> str:
    data = base64.b64encode(read_file(picture)).decode()
    shown = html.escape(words)
    image = (
        f'<img src="data:image/png;base64,{data}" alt="{shown}" style="height: 128px; display:'
        ' block; margin: 0">'
    )
    return (
        f'<figure style="margin: 0">{image}<figcaption style="font-size:'
        f' smaller">{shown}</figcaption></figure>'
    )
