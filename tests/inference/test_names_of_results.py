"""A result in a folder is named after what it shows, and is matched with its truth by that name."""

from pathlib import Path

import pytest
from volumes import volume

from gantk.catalog.contrasts import result_paths

# name of the input, contrasts that are made -> names of the results
NAMES = {
    "BIDS": ("sub-01_T1w.nii.gz", ["T2"], ["sub-01_T2w.nii.gz"]),
    "BraTS": ("007_t1n.nii.gz", ["T2"], ["007_t2w.nii.gz"]),
    "only the contrast": ("p01/T1.nii.gz", ["T2"], ["p01/T2.nii.gz"]),
    "a folder of the contrast": ("T1/p01.nii.gz", ["T2"], ["T2/p01.nii.gz"]),
    "several words": ("x_T1 post Gd.nii", ["T2"], ["x_T2 Gd.nii"]),
    "no contrast": ("p01.nii.gz", ["T2"], ["p01.nii.gz"]),
    "MR, which T2 is too": ("mr/SE0001", ["T2"], ["mr/SE0001"]),
    "a series with dots": ("1.2.840.3", ["T2"], ["1.2.840.3"]),
    "the same contrast": ("p01_T2.nii.gz", ["T2"], ["p01_T2.nii.gz"]),
    "registered to the target": ("v_t1_to_t2.png", ["T2"], ["v_t2_to_t2.png"]),
    "no contrast is made": ("T1_001.png", ["photo"], ["T1_001.png"]),
    "several": ("p01.nii", ["T2", "FLAIR"], ["p01_T2.nii", "p01_FLAIR.nii"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_result_has_the_name_of_its_contrast(case):
    name, contrasts, expected = NAMES[case]
    found = result_paths(Path("out"), name, contrasts)

    assert [*found] == contrasts
    assert [path.as_posix() for path in found.values()] == [f"out/{each}" for each in expected]


# names of predictions, and of their truth; whether they say other contrasts
MATCHED = {
    "one has the contrast": (["p01_T2.nii.gz", "p02_T2.nii.gz"], ["p01.nii.gz", "p02.nii.gz"], 0),
    "spelled in another way": (
        ["p01_T2.nii.gz", "p02_T2.nii.gz"],
        ["p01_T2w.nii", "p02_T2w.nii"],
        0,
    ),
    "in folders": (["p01/T2.nii", "p02/T2.nii"], ["p01/t2w.nii", "p02/t2w.nii"], 0),
    "alone in equal folders": (
        ["p01/t2_mprage.nii", "p02/t2_mprage.nii"],
        ["p01/t2_tse.nii", "p02/t2_tse.nii"],
        0,
    ),
    "unchanged inputs": (["p01_T1.nii.gz", "p02_T1.nii.gz"], ["p01_T2.nii", "p02_T2.nii"], 1),
}


@pytest.mark.parametrize("case", MATCHED)
def test_results_find_their_truth(case, tmp_path, gantk):
    *sides, others = MATCHED[case]
    for folder, names in zip(("made", "real"), sides, strict=True):
        for seed, name in enumerate(names):
            volume(tmp_path / folder / name, seed)
    done = gantk("eval", "--pred", tmp_path / "made", "--truth", tmp_path / "real").ok()

    assert "100" in done.out  # dB, of equal images
    assert done.out.count("different contrasts") == others


def test_a_translated_file_says_its_contrast(tiny_run, tmp_path, gantk):
    volume(tmp_path / "in" / "p01_T1.nii.gz", shape=(24, 24, 6))
    gantk(
        "translate", tiny_run, tmp_path / "in" / "p01_T1.nii.gz", tmp_path / "one", "--to", "T2"
    ).ok()
    gantk("translate", tiny_run, tmp_path / "in", tmp_path / "all", "--to", "T2").ok()

    for folder in ("one", "all"):
        names = {path.name for path in (tmp_path / folder).iterdir() if path.name[0] != "."}
        assert names == {"p01_T2.nii.gz", "p01_T2.json"}


def test_a_result_never_replaces_its_input(tiny_run, tmp_path, gantk):
    """Beside the input lies only a result of another name, whatever may be replaced."""
    inputs = [volume(tmp_path / name, shape=(24, 24, 6)) for name in ("p01.nii", "p02_T1.nii")]
    given = [path.read_bytes() for path in inputs]
    done = [
        gantk("translate", tiny_run, path, tmp_path, "--to", "T2", "--overwrite") for path in inputs
    ]

    assert [each.code for each in done] == [2, 0]
    assert "OUTPUT is the same as INPUT" in done[0].err
    assert (tmp_path / "p02_T2.nii").exists()
    assert [path.read_bytes() for path in inputs] == given


def test_two_results_have_no_json_file_together(tiny_run, tmp_path, gantk):
    for name in ("p01.nii", "p01.nii.gz", "p02.nii"):
        volume(tmp_path / "in" / name, shape=(24, 24, 6))
    done = gantk("translate", tiny_run, tmp_path / "in", tmp_path / "out", "--to", "T2")

    assert done.code == 0, done.err
    assert "several results would share it: 'p01.json'" in done.out + done.err
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"p02.json"}
