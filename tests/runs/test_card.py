"""The card of a run: items of two guidelines, answered where the run knows, open by name where it
does not.
"""

import json

from gantk.files import sha256_of
from gantk.runs.folder import RunFolder
from gantk.runs.models import split_hash


def test_cards_say_what_is_known_and_name_nobody(tiny_run, tmp_path, gantk):
    done = gantk("card", tiny_run, "--out", tmp_path / "card.md", "--json", tmp_path / "card.json")
    assert done.code == 0 and "CLAIM: " in done.out, done.err
    found = json.loads((tmp_path / "card.json").read_text("utf-8"))
    text = (tmp_path / "card.md").read_text("utf-8")
    numbers = [(item["guideline"], item["number"]) for item in found["items"]]
    assert [n for name, n in numbers if name == "CLAIM"] == [str(n) for n in range(1, 45)]
    assert len(set(numbers)) == 96
    assert all(item["answers"] or item["open"] for item in found["items"])
    facts = found["facts"]
    run = RunFolder(tiny_run)
    for digest in (
        split_hash(run.split()),
        sha256_of(run.inference_checkpoint() / "weights.safetensors"),
    ):
        assert digest in facts["hashes"]
        assert digest in text
    score = run.metrics["a_to_b"]["psnr"]
    assert f"psnr {score['value']:.4g}" in facts["results"]
    assert score["definition"] in facts["metrics"]
    assert "seed 0" in facts["training"]
    assert "gantk" in facts["software"]
    assert "by patient" in facts["disjoint"]
    assert "**to be filled in: scanners, sequences and their parameters**" in text
    people = {
        image["subject"] for each in ("train", "test") for image in run.split()["splits"][each]
    }
    assert people
    assert not any(name in text for name in people)


def test_cards_of_incomplete_runs_leave_more_open(copied_run, tmp_path, gantk):
    for name in ("metrics", "split", "environment", "patients"):
        (copied_run / f"{name}.json").unlink()
    assert gantk("card", copied_run, "--json", tmp_path / "card.json").code == 0
    found = json.loads((tmp_path / "card.json").read_text("utf-8"))
    (item,) = (
        each for each in found["items"] if (each["guideline"], each["number"]) == ("CLAIM", "37")
    )
    assert (item["answers"], item["open"]) == ({}, "performance with its uncertainty")
    wrong = {
        "RUN --out gone/card.md": "no folder 'gone'",
        "RUN --json /": "is a folder",
        "gone": "no folder 'gone'",
    }
    for words, says in wrong.items():
        done = gantk("card", *(copied_run if word == "RUN" else word for word in words.split()))
        assert done.code == 2
        assert says in done.err
        assert "Traceback" not in done.err
