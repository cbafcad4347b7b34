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
    reason = "the series lacks 2 of the 6 images that its header states: " + "word " * 30
    for name, outcome, why in ((done, "done", ""), (refused, "refused", reason)):
        made = {"time": "2026-11-27T10:00:00+00:00", "outcome": outcome, "reason": why}
        orthanc.metadata[name] = json.dumps(made).encode()
    told = gantk("serve", "status", rules("[orthanc]")).ok()

    words = "".join(told.out.split())
    assert words.count("done") == words.count("refused") == words.count("receiving") == 1
    assert "lacks" in words
    assert max(map(len, told.out.splitlines())) <= 80


def test_status_as_json(orthanc, rules, gantk, tmp_path):
    name = orthanc.add(*study(tmp_path / "s", 1))
    told = json.loads(gantk("serve", "status", rules("[orthanc]"), "--json").out)

    assert told == [
        {
            "series": name,
            "outcome": "waiting",
            "reason": "",
            "time": "",
            "description": "T1 tse tra",
        }
    ]
