"""A MONAI bundle's words: the model card (docs/README.md) and the LICENSE that its owner has to choose."""

from __future__ import annotations

from typing import Any

from gantk import __version__
from gantk.inference.translator import OTHER
from gantk_monai.inference import AXCODES
from gantk_monai.metadata import MONAI, evaluation, intended_use, lines_of, whole

LICENSE = """\
No licence has been chosen for the weights in this bundle (models/model.ts, models/model.pt).
Whoever trained them decides, within the terms of the data they were trained on: replace this file with that licence.

The configuration files and the model card were written by gantk and may be used under the Apache License, version 2.0:
http://www.apache.org/licenses/LICENSE-2.0
"""


def card(direction: Any, pictures: bool, parity_line: str) -> str:
    """docs/README.md in Markdown."""
    translator = direction.translator
    model, frame = translator.model, translator.frame(direction.letter)
    state = direction.state()
    return "\n".join(
        [
            f"# {frame.source} to {frame.target}",
            "",
            f"Translates {frame.source} images into {frame.target} images. Method: {model.method.name}; "
            f"{state['trained']['step']} training steps, with gantk {__version__}.",
            "",
            "## Intended use",
            "",
            intended_use(direction),
            "",
            "## How to run it",
            "",
            "```",
            "python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir INPUT",
            "```",
            "",
            _input(direction, pictures) + " The results lie in `output`.",
            "",
            *_steps(direction, pictures),
            "",
            "## Scores",
            "",
            *_table(direction),
            "",
            "## What was checked",
            "",
            f"`models/model.ts` was compared with the trained PyTorch network: {parity_line}.",
            "The exporter does not need MONAI and does not run it: `configs/inference.json` was written for MONAI "
            f"{MONAI}, by its documentation. Look at a first result before you use many.",
            "",
            "## What is left out",
            "",
            *_left_out(direction),
            "",
        ]
    )


def _input(direction: Any, pictures: bool) -> str:
    names = direction.translator.contrasts(OTHER[direction.letter])
    kind = "PNG pictures" if pictures else "NIfTI volumes"
    if len(names) == 1:
        return f"INPUT is a folder of {kind}, {names[0]} each."
    files = ", ".join(f"`*{name}{'.png' if pictures else '.nii.gz'}`" for name in names)
    return f"INPUT is a folder with one folder for each patient, which holds {files} on one grid."


def _steps(direction: Any, pictures: bool) -> list[str]:
    translator = direction.translator
    data, source = translator.model.data, translator.intensity[OTHER[direction.letter]]
    rows = []
    if not pictures:
        rows.append(f"* Volumes are turned to {AXCODES[data.plane]}: {data.plane} slices, as in training.")
        if data.spacing:
            rows.append(f"* They are resampled to {' x '.join(f'{mm:g}' for mm in data.spacing)} mm.")
    for line, name in zip(lines_of(source), translator.contrasts(OTHER[direction.letter]), strict=False):
        start, end = line.range
        how = f"{line.low:g} to {start:g}, {line.high:g} to {end:g}" if line.per == "set" else f"by each {line.per}"
        rows.append(f"* Intensities of {name} ({line.name}): {how}, never clipped.")
    for line, name in zip(lines_of(direction.target), translator.contrasts(direction.letter), strict=False):
        start, end = line.range
        rows.append(f"* Results: {start:g} to {line.low:g}, {end:g} to {line.high:g} in the intensities of {name}.")
    if pictures:
        rows.append(
            "* They are written as PNG: rounded to whole numbers, and cut at 0 and at the largest that it holds."
        )
    if whole(direction):
        size = " x ".join(map(str, data.size))
        rows.append(f"* `model.ts` takes images of any size: it brings them to {size} itself, and the results back.")
    else:
        size = " x ".join(map(str, translator.method.geometry.size))
        rows.append(f"* `model.ts` takes windows of {size}, which MONAI cuts and blends.")
    return rows


def _table(direction: Any) -> list[str]:
    key = f"{OTHER[direction.letter]}_to_{direction.letter}"
    found = evaluation(direction)
    rows = found.get("metrics", {}).get(key, {})
    rows = {name: row for name, row in rows.items() if isinstance(row, dict) and row.get("value") is not None}
    if not rows:
        return ["The run holds no scores of this direction."]
    baselines = {name: each[key] for name, each in found.get("baselines", {}).items() if each.get(key)}
    lines = [
        "On the run's own test split, which its training has not seen. A model that does not beat the baselines, which",
        "change intensities alone or nothing at all, has learnt nothing of use.",
        "",
        "| metric | model | 95 % interval | n | " + " | ".join(baselines) + (" |" if baselines else ""),
        "|---|---|---|---|" + "---|" * len(baselines),
    ]
    for name, row in rows.items():
        beside = [f"{each[name]['value']:.4g}" if _valued(each.get(name)) else "" for each in baselines.values()]
        interval = " to ".join(f"{end:.4g}" for end in row["ci95"]) if row.get("ci95") else ""
        cells = [name, f"{row['value']:.4g}", interval, str(row.get("n", "")), *beside]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *[f"* {name}: {row['definition']}" for name, row in rows.items() if row.get("definition")]]


def _valued(row: Any) -> bool:
    return isinstance(row, dict) and row.get("value") is not None


def _left_out(direction: Any) -> list[str]:
    model = direction.translator.model
    rows = [
        "* Files on another intensity scale than the training images': gantk notices and fits its mapping anew, this "
        "pipeline does not.",
    ]
    if not whole(direction):
        rows.append("* Statistics of the whole image for instance norm: here each window is normalised by itself.")
    if model.data.spacing:
        rows.append("* gantk's own resampling: MONAI's differs by interpolation, and blurs the way back.")
    if model.data.missing == "mask":
        rows.append("* Patients who lack a contrast: every contrast has to be there.")
    rows += [f"* The recipe's post-step `{part.name}`." for part in model.post]
    return rows
