"""The files of plugins/gantk_serve/deploy/: the rules are valid, the parts of the compose file fit each other, the unit
keeps its restrictions, and the image's script translates what it is given.
"""

import configparser
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from gantk_serve.rules import load_rules

DEPLOY = ROOT / "plugins" / "gantk_serve" / "deploy"


@pytest.fixture
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]


def test_orthanc_and_rules_name_the_same_titles_hosts_and_ports(compose):
    rules = load_rules(DEPLOY / "rules.toml")
    orthanc = json.loads((DEPLOY / "orthanc.json").read_text("utf-8"))

    assert orthanc["DicomModalities"]["GANTK"] == [rules.dicom.title, "gantk", rules.dicom.port]
    (peer,) = rules.peers
    assert (peer.title, peer.host, peer.port) == (
        orthanc["DicomAet"],
        "orthanc",
        orthanc["DicomPort"],
    )
    assert {"gantk", "orthanc"} == compose.keys()
    assert "/modalities/GANTK/store" in (DEPLOY / "route.lua").read_text("utf-8")


def test_only_orthanc_takes_dicom_from_the_network(compose):
    rules = load_rules(DEPLOY / "rules.toml")

    assert compose["gantk"]["ports"] == [f"127.0.0.1:{rules.http.port}:{rules.http.port}"]
    assert [port for port in compose["orthanc"]["ports"] if "127.0.0.1" not in port] == [
        "4242:4242"
    ]


def test_every_mounted_file_exists(compose):
    mounts = [each for one in compose.values() for each in one["volumes"] if each.startswith("./")]
    files = {each.split(":")[0].removeprefix("./") for each in mounts}

    assert {name for name in files if not (DEPLOY / name).is_file()} == {"users.json"}
    assert all(each.endswith(":ro") for each in mounts)


def test_compose_stores_where_the_image_allows_it(compose):
    folder = Path(load_rules(DEPLOY / "rules.toml").service.folder)
    mounts = [each.partition(":")[2] for each in compose["gantk"]["volumes"]]

    assert str(folder.parent) in mounts
    assert f"/output {folder.parent}" in (ROOT / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("StateDirectory", "gantk"),
        ("StateDirectoryMode", "0700"),
        ("User", "gantk-serve"),
        ("CapabilityBoundingSet", ""),
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
        ({}, ["/model", "/input", "/output", "--tta"]),
        (
            {"GANTK_MODEL": "t1t2", "GANTK_TO": "T2", "GANTK_INPUT": "/in put"},
            ["t1t2", "/in put", "/output", "--to", "T2", "--tta"],
        ),
    ],
)
def test_variables_choose_what_the_image_translates(tmp_path, variables, words):
    program = tmp_path / "gantk"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", DEPLOY / "translate.sh", "--tta"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == ["translate", *words]
