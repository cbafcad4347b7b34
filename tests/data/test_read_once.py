"""Before the first step of a run each file is opened four times at most, once of these to learn
whether gantk made it; each folder is listed twice.
"""

import os
import sys
from collections import Counter

import pytest
from volumes import volume

import gantk

TINY = [
    "data.size=[24, 24]",
    "train.steps=1",
    "train.batch=2",
    "method.generator.width=4",
    "method.discriminator.width=4",
]
watched = ""  # the folder whose files are counted
opened = Counter()
listed = Counter()


def count(event, arguments):
    if watched and event in ("open", "os.scandir", "os.listdir"):
        path = str(arguments[0])
        if path.startswith(watched):
            (opened if event == "open" else listed)[path] += 1


class FirstStep(Exception):
    pass


def stop_at_first_step(line):
    if line.startswith("run "):
        raise FirstStep


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """The folder whose openings are counted until the first step."""
    root = tmp_path / "scans"
    for n in range(10):
        for k, name in enumerate(("T1", "T2")):
            volume(root / f"p{n}" / f"{name}.nii.gz", 10 * n + k)

    monkeypatch.setattr(sys.modules[__name__], "watched", str(root))
    sys.addaudithook(count)
    return root


def test_files_are_opened_four_times_and_folders_listed_twice(counted, tmp_path):
    with pytest.raises(FirstStep):
        gantk.run(
            "dualgan_t1t2",
            data=counted,
            set=TINY,
            out=tmp_path / "run",
            device="cpu",
            allow_leakage=True,  # of noise, which is alike
            say=stop_at_first_step,
        )

    files = [n for path, n in opened.items() if os.path.isfile(path)]
    assert len(files) == 20
    assert max(files) <= 4
    assert max(listed.values()) <= 2
