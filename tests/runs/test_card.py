"""The card of a run: items of two guidelines, answered where the run knows, open by name where it
does not.
"""

import tomllib

import pytest
from tiny import read_json, write_json, write_toml

from gantk import RunRecord
from gantk.files import sha256_of
from gantk.runs.folder import RunFolder
from gantk.runs.models import split_hash
from gantk_studies.card.facts import facts_of


@pytest.fixture
def card(tiny_run, tmp_path, gantk):
    """The card of a run as text and as items, and what the command printed."""
    done = gantk(
        "card", tiny_run, "--out", tmp_path / "card.md", "--json", tmp_path / "card.json"
    ).ok()
    found = read_json(tmp_path / "card.json")
    return (tmp_path / "card.md").read_text("utf-8"), found, done.out


def test_cards_answer_or_leave_open_every_item(card):
    _, found, printed = card
    assert "CLAIM: " in printed
    numbers = [(item["guideline"], item["number"]) for item in found["items"]]
    assert len(set(numbers)) == 96
    of_claim = [number for guideline, number in numbers if guideline == "CLAIM"]
    assert of_claim == [str(number) for number in range(1, 45)]
    for item in found["items"]:
        assert item["answers"] or item["open"]


def test_cards_state_what_the_run_knows(card, tiny_run):
    text, found, _ = card
    facts = found["facts"]
    run = RunFolder(tiny_run)
    weights = run.inference_checkpoint() / "weights.safetensors"
    for digest in (split_hash(run.split().splits), sha256_of(weights)):
        assert digest in facts["hashes"]
        assert digest in text

    score = run.metrics["a_to_b"]["psnr"]

    assert f"T1 → T2 PSNR {score['value']:.2f} dB" in facts["results"]
    assert score["definition"] in facts["metrics"]
    assert "seed 0" in facts["training"]
    assert "gantk" in facts["software"]
    assert "by patient" in facts["disjoint"]


@pytest.mark.parametrize(
    ("changed", "technique"),
    [
        ({}, "own summary"),
        ({"train.steps": ["9", "8"]}, "own summary"),
        ({"data.source.path": ["a", "b"]}, "Trained on heads, with the settings of x.toml."),
        ({"data.domains": ["T1", "CT"]}, "Trained on heads, with the settings of x.toml."),
    ],
)
def test_cards_say_what_was_trained_on_without_paths(copied_run, changed, technique):
    recipe = copied_run / "recipe.toml"
    tables = tomllib.loads(recipe.read_text("utf-8"))
    tables["summary"] = "own summary"
    tables["data"]["source"] = {"name": "files", "path": "/scans/heads"}
    write_toml(recipe, tables)
    file = copied_run / "environment.json"
    about = read_json(file)
    about["recipe"] = {"origin": "/home/x.toml", "data": "files: /scans/heads", "changed": changed}
    write_json(file, about)

    assert facts_of(RunRecord(copied_run))["technique"].endswith(f": {technique}")


def test_cards_of_incomplete_runs_leave_more_open(copied_run, tmp_path, gantk):
    for name in ("metrics", "split", "environment", "patients"):
        (copied_run / f"{name}.json").unlink()

    gantk("card", copied_run, "--json", tmp_path / "card.json").ok()

    found = read_json(tmp_path / "card.json")
    (item,) = (
        each for each in found["items"] if (each["guideline"], each["number"]) == ("CLAIM", "37")
    )

    assert item["answers"] == {}
    assert item["open"] == "performance with its uncertainty"

    wrong = {
        "RUN --out gone/card.md": "the folder 'gone' does not exist",
        "RUN --json /": "is a folder",
        "gone": "no folder 'gone'",
    }
    for words, says in wrong.items():
        told = gantk(
            "card", *(copied_run if word == "RUN" else word for word in words.split())
        ).refused()
        assert says in told
        assert "Traceback" not in told
