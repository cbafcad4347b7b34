"""A page taken apart: what tests of report.html look at."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import write_json


class Page(HTMLParser):
    """Every tag with its attributes, scripts and styles, and the words that a reader sees."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "": []}
        self.inside = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("script", "style") else self.inside

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, text):
        self.texts[self.inside].append(text)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts[""]).replace("\u00a0", " ").split())

    @property
    def data(self) -> dict:
        """What the page's script reads; refused where a browser could not."""

        def refuse(name):
            raise AssertionError(f"{name} is not JSON that a browser reads")

        return json.loads(self.texts["script"][0], parse_constant=refuse)

    def having(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def can_execute_nothing_of_its_own(self) -> bool:
        handlers = [
            name for _, attributes in self.tags for name in attributes if name.startswith("on")
        ]
        scripts = [attributes.get("type") for tag, attributes in self.tags if tag == "script"]
        return (
            scripts.count(None) <= 1 and set(scripts) <= {None, "application/json"} and not handlers
        )


def draw_samples(
    run: Path, directions: dict, steps: tuple[int, ...], truth: bool, side: int = 16
) -> None:
    """Random pictures and their index in the samples of a run folder."""
    random = np.random.default_rng(0)
    for key, direction in directions.items():
        for i in range(direction["count"]):
            groups = ["input", *(["truth"] if truth else [])] if direction["from"] else []
            for group in [*groups, *(f"step-{step:06d}" for step in steps)]:
                path = run / "samples" / group / f"{key}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8)).save(path)

    index = {"directions": directions, "steps": list(steps), "has_truth": truth}
    write_json(run / "samples" / "index.json", index)
