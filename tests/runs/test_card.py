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
from gantk_studies.card import ITEMS, facts_of


@pytest.fixture
def card(tiny_run, tmp_path, gantk) -> str:
    gantk("card", tiny_run, "--out", tmp_path / "card.md").ok()
    return (tmp_path / "card.md").read_text("utf-8")


def test_cards_answer_or_leave_open_every_item(card):
    rows = [line.split(" | ") for line in card.split("## CLAIM")[1].splitlines()]
    answers = {
        tuple(cells[:2]): cells[-1] for cells in rows if len(cells) == 3 and cells[0] != "| item"
    }
    items = tomllib.loads(ITEMS.read_text("utf-8"))

    assert [item["number"] for item in items["CLAIM"]] == [str(n) for n in range(1, 45)]
    assert sum(map(len, items.values())) == 96
    for item in [*items["CLAIM"], *items["TRIPOD+AI"]]:
        answer = answers[f"| {item['number']}", item["asks"]]
        assert "see *" in answer or "to be filled in" in answer
        assert item.get("open", "") in answer


OTHER_DATA = "Trained on the authors' data (T1, T2), with the settings of x.toml."


def test_cards_state_what_the_run_knows(card, tiny_run):
    facts = facts_of(RunRecord(tiny_run))
    run = RunFolder(tiny_run)
    weights = run.inference_checkpoint() / "weights.safetensors"
    for digest in (split_hash(run.split().splits), sha256_of(weights)):
        assert digest in facts["hashes"]
        assert digest in card

    score = run.metrics["a_to_b"]["psnr"]

    assert f"{score['value']:.2f} dB" in card.split("## Scores")[1].split("## CLAIM")[0]
    assert score["definition"] in facts["metrics"]
    assert "seed 0" in facts["training"]
    assert "gantk" in facts["software"]
    assert "by patient" in facts["split"]


@pytest.mark.parametrize(
    ("changed", "technique"),
    [
        ({}, "own summary"),
        ({"train.steps": ["9", "8"]}, "own summary"),
        ({"data.source.path": ["a", "b"]}, OTHER_DATA),
        ({"data.domains": ["T1", "CT"]}, OTHER_DATA),
    ],
)
def test_cards_say_what_was_trained_on_without_paths(copied_run, changed, technique):
    recipe = copied_run / "recipe.toml"
    tables = tomllib.loads(recipe.read_text("utf-8"))
    tables["summary"] = "own summary"
    tables["data"]["source"] = {"name": "files", "path": "/scans/heads"}
    tables["data"]["leave_out"] = ["P07"]
    write_toml(recipe, tables)
    file = copied_run / "environment.json"
    about = read_json(file)
    about["recipe"] = {"origin": "/home/x.toml", "data": "files: /scans/heads", "changed": changed}
    write_json(file, about)

    facts = facts_of(RunRecord(copied_run))

    assert facts["technique"].endswith(f", {technique}")
    assert "/" not in facts["data"]
    assert "P07" not in facts["data"]


def test_cards_of_incomplete_runs_leave_more_open(copied_run, gantk):
    for name in ("metrics.json", "split.json", "environment.json", "scores.csv"):
        (copied_run / name).unlink()

    told = gantk("card", copied_run, "--out", copied_run / "card.md").ok().out
    card = (copied_run / "card.md").read_text("utf-8")
    assert f"{card.count('**to be filled in')} items are left to the authors" in told

    assert "to be filled in: performance with its uncertainty" in " ".join(card.split())
    wrong = {
        "RUN --out gone/card.md": "the folder 'gone' does not exist",
        "gone": "no folder 'gone'",
    }
    for words, says in wrong.items():
        told = gantk(
            "card", *(copied_run if word == "RUN" else word for word in words.split())
        ).refused()
        assert says in told
        assert "Traceback" not in told
