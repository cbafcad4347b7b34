"""The section `Accuracy of a classifier` of report.html: without and with the recipe's post-steps,
beside the figures of a published system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.recipe.load import mapping
from gantk.runs.results import Results, Score

WITHOUT = "accuracy_without_style_transfer"
WITH = "accuracy_with_style_transfer"


def section(record) -> dict[str, Any] | None:
    """The result of the hook `gantk_report_section`; None where no accuracy is known."""
    published = mapping(mapping(record.recipe.get("paper")).get("published"))
    charts = []
    results: Results = record.results
    for key, scores in results.metrics.items():
        if key.endswith("_post"):
            continue
        after = results.metrics.get(f"{key}_post", {})
        bars = [
            _bar("trained on generated images", scores.get("classification")),
            _bar("trained on them after the post-steps", after.get("classification")),
            _bar("trained on real images", scores.get("classification_real")),
        ]
        found = [bar for bar in bars if bar]
        if found:
            charts.append({"label": record.label(key), "bars": found})

    of_report = published_bars(published)
    if not charts and not of_report:
        return None

    return {
        "folder": Path(__file__).parent,
        "template": "accuracy.html.j2",
        "styles": ["accuracy.css"],
        "charts": charts,
        "published": of_report,
    }


def _bar(label: str, score: Score | None) -> dict[str, Any] | None:
    """A bar of a metric's plain accuracy; None without one."""
    found = (score.details.get("accuracy") or {}) if score else {}
    if score is None or found.get("value") is None:
        return None
    low, high = found.get("ci95") or (None, None)
    return {"label": label, "value": found["value"], "low": low, "high": high, "n": score.n}


def published_bars(published: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars of the published accuracies, which their report does not define.

    A recipe with style transfer gives `accuracy` as the accuracy with it, a recipe without as that
    without it.
    """
    known = dict(published)
    if "accuracy" in known:
        known.setdefault(WITH if WITHOUT in known else WITHOUT, known["accuracy"])

    labels = {WITHOUT: "published, without style transfer", WITH: "published, with style transfer"}
    return [
        {"label": label, "value": known[name]}
        for name, label in labels.items()
        if isinstance(known.get(name), (int, float))
    ]
