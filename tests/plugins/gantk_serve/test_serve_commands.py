"""What `gantk serve` says: its rules, its Orthanc, its status."""

import json

import pytest

pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "gantk[dicom]"')

from orthanc_double import OrthancDouble
from serving import free_ports, study


@pytest.fixture
def orthanc(monkeypatch):
    """The Orthanc of all rules."""
    double = OrthancDouble()
    monkeypatch.setattr("gantk_serve.orthanc.Orthanc", lambda table: double)
    return double


@pytest.fixture
def rules(tmp_path):
    """The path of a file with these rules."""

    def write(text: str):
        path = tmp_path / "rules.toml"
        path.write_text(text, "utf-8")
        return path

    return write


WRONG = {
    "no TOML": ("[[rules]", "read as rules in TOML"),
    "an unknown key": ('[orthanc]\nurll = "x"', "Did you mean 'url'"),
    "a rule without a model": ('[[rules]]\nto = "T2"', "model"),
    "an unknown table": ("[dicom]\nport = 4243", "Allowed: format, orthanc"),
    "an unknown modality": ('[[rules]]\nmodel = "t1t2"\nsend = "OTHER"', "no modality of Orthanc"),
    "a password in the address": ('[orthanc]\nurl = "http://a:b@x"', "orthanc.url"),
    "a file as address, or a password": ('[orthanc]\nurl = "file:///etc/passwd"', "orthanc.url"),
    "a user without a password": ('[orthanc]\nuser = "a"', "needs a password"),
    "a missing password": ('[orthanc]\nuser = "a"\npassword_file = "x"', "does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rules_are_one_message(case, rules, gantk, monkeypatch):
    text, words = WRONG[case]
    if "password" not in case:
        monkeypatch.setattr("gantk_serve.orthanc.Orthanc", lambda table: OrthancDouble())
    told = gantk("serve", rules(text)).refused()

    assert words.lower() in told.lower()


def test_without_an_orthanc_it_says_how_to_get_one(rules, gantk):
    (port,) = free_ports(1)
    told = gantk("serve", rules(f'[orthanc]\nurl = "http://127.0.0.1:{port}"')).refused()

    assert "does not answer" in told
    assert "apt install orthanc" in told


def test_status_fits_a_terminal_and_gives_reasons(orthanc, rules, gantk, tmp_path):
    done, refused = (orthanc.add(*study(tmp_path / "s", number)) for number in (1, 2))
    orthanc.add(*study(tmp_path / "s", 3), stable=False)
    left_out = orthanc.add(*study(tmp_path / "s", 4))
    common = {"time": "2026-11-27T10:00:00+00:00", "model": {"name": "t1t2"}}
    reason = "the series lacks 2 of the 6 images that its header states: " + "word " * 30
    outcomes = ((done, "done", ""), (refused, "refused", reason), (left_out, "left out", "no rule"))
    for name, outcome, why in outcomes:
        made = common | {"outcome": outcome, "reason": why, "sources": {name: ""}}
        orthanc.metadata[name] = json.dumps(made).encode()
    told = gantk("serve", "status", rules("[orthanc]")).ok()

    counts = [line.split()[:2] for line in told.out.splitlines()[1:5]]
    assert counts == [["1", "receiving"], ["1", "done"], ["1", "refused"], ["1", "left"]]
    words = " ".join(told.out.split())
    assert f"; {done}; T1 tse tra" in words
    assert "lacks 2 of the 6 images" in words
    assert left_out not in words
    assert max(map(len, told.out.splitlines())) <= 80


def test_status_as_json(orthanc, rules, gantk, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1))
    told = json.loads(gantk("serve", "status", rules("[orthanc]"), "--json").out)

    assert told["counts"]["waiting"] == 1
    study_of_it = told["series"][0].pop("study")
    assert study_of_it in {each["study"] for each in orthanc.files.values()}
    assert told["series"] == [
        {
            "series": name,
            "outcome": "waiting",
            "reason": "",
            "time": "",
            "description": "T1 tse tra",
            "model": "",
        }
    ]
