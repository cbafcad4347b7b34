"""The files of plugins/gantk_serve/deploy/: the rules are valid, the parts of the compose file fit each other, the unit
keeps its restrictions, and the image's script translates what it is given.
"""

import configparser
import json
import os
import shutil
import subprocess

import pytest
import yaml
from tiny import ROOT, read_json

from gantk_serve.rules import load_rules

DEPLOY = ROOT / "plugins" / "gantk_serve" / "deploy"


@pytest.fixture
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]


@pytest.fixture
def orthanc() -> dict:
    return read_json(DEPLOY / "orthanc.json")


def test_only_orthanc_has_ports_and_only_dicom_is_open(compose, orthanc):
    assert "ports" not in compose["gantk"]
    assert compose["orthanc"]["ports"] == [
        f"{orthanc['DicomPort']}:{orthanc['DicomPort']}",
        f"127.0.0.1:{orthanc['HttpPort']}:{orthanc['HttpPort']}",
    ]


def test_the_script_changes_what_debian_has(tmp_path):
    settings = tmp_path / "orthanc.json"
    settings.write_text('  "StableAge" : 60,\n  "OverwriteInstances" : false,\n')
    script = (DEPLOY / "install.sh").read_text("utf-8")
    (line,) = [each for each in script.splitlines() if "OverwriteInstances" in each]
    subprocess.run(
        ["sh", "-c", line.replace("/etc/orthanc/orthanc.json", str(settings))], check=True
    )

    assert json.loads("{" + settings.read_text().rstrip(",\n") + "}") == {
        "StableAge": 60,
        "OverwriteInstances": True,
    }


def test_every_mounted_file_exists(compose):
    mounts = [each for one in compose.values() for each in one["volumes"] if each.startswith("./")]
    files = {each.split(":")[0].removeprefix("./") for each in mounts}

    assert {name for name in files if not (DEPLOY / name).is_file()} == {"users.json", "password"}
    assert all(each.endswith(":ro") for each in mounts)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("StateDirectory", "gantk"),
        ("StateDirectoryMode", "0700"),
        ("User", "gantk-serve"),
        ("CapabilityBoundingSet", ""),
        ("SocketBindDeny", "any"),
        ("IPAddressDeny", "any"),
        ("IPAddressAllow", "localhost"),
    ],
)
def test_the_unit_is_restricted(key, value):
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "gantk-serve.service", "utf-8")

    assert unit["Service"][key] == value


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ["/model", "/input", "/output", "--overwrite"]),
        (
            {"GANTK_MODEL": "t1t2", "GANTK_TO": "T2", "GANTK_INPUT": "/in put"},
            ["t1t2", "/in put", "/output", "--to", "T2", "--overwrite"],
        ),
    ],
)
def test_variables_choose_what_the_image_translates(tmp_path, variables, words):
    program = tmp_path / "gantk"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", DEPLOY / "translate.sh", "--overwrite"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == ["translate", *words]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path):
    unit = (DEPLOY / "gantk-serve.service").read_text("utf-8")
    path = tmp_path / "gantk-serve.service"
    path.write_text(unit.replace("/opt/gantk/bin/gantk", "/bin/true"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_rules_name_the_orthanc_of_the_compose_file(compose, orthanc):
    rules = load_rules(DEPLOY / "rules.toml")

    assert rules.orthanc.url == f"http://orthanc:{orthanc['HttpPort']}"
    assert compose.keys() == {"gantk", "orthanc"}
    assert orthanc["OverwriteInstances"]  # else corrected images are dropped
    assert orthanc["CheckRevisions"]
    assert orthanc["AuthenticationEnabled"]
