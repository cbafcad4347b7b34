"""Names with numbers of channels, as nnU-Net writes them: dataset.json says the contrasts, or it is
an error.
"""

import numpy as np
import pytest
from tiny import write_json
from volumes import FROM_NOISE, UNPAIRED, load, volume

from gantk import check, checked_recipe, translate
from gantk.catalog.question import LayoutQuestion
from gantk.errors import UserError
from gantk.formats.files import read

SPLIT = {"test": 0.4, "validation": 0.0}


def nnunet(root, names=None, channels=2):
    for n, channel in np.ndindex(4, channels):
        name = f"imagesTr/p_{n:02d}_{channel:04d}.nii"
        volume(root / name, n * channels + channel, (12, 12, 4))
    for n in range(4):
        volume(root / f"labelsTr/p_{n:02d}.nii", n, (12, 12, 4))
    if names is not None:
        numbered = {str(number): name for number, name in enumerate(names)}
        write_json(root / "dataset.json", {"channel_names": numbered})
    return root


def source(path, name="files", **options):
    return {"name": name, "path": str(path), **options}


def test_a_channel_without_a_usual_contrast_is_used_by_its_name(tmp_path):
    root = nnunet(tmp_path, ["T1", "T1-Gd", "T2", "alpha"], channels=4)
    images = load(source(root, "images"), FROM_NOISE, domains=("alpha",), split=SPLIT)
    assert all("_0003." in record.key for record in images.records)
    assert checked_recipe("dcgan_tumour", root, ['data.domains=["T2"]'], None)[0].remarks == []


def test_channels_without_names_are_an_error_everywhere(tmp_path, gantk):
    root = nnunet(tmp_path / "scans")
    says = "numbers of channels, which are different contrasts, and no dataset.json names them"
    with pytest.raises(LayoutQuestion, match=says):
        check(root)

    recipe = tmp_path / "recipe.toml"
    plan = gantk("plan", root, "--out", recipe)
    assert (plan.code, recipe.exists()) == (2, False)
    assert says in plan.err
    run = gantk("run", "dualgan_t1t2", "--data", root, "--out", tmp_path / "run")
    assert (run.code, (tmp_path / "run").exists()) == (2, False)
    assert says in run.err
    assert "--set 'data.words.T1=[\"WORD\"]' --set 'data.words.T2=[\"WORD\"]'" in run.err


BAD = {
    "deep": ("[" * 200_000, "cannot be read"),
    "twice": ('{"channel_names": {"0": "MRI", "1": "MRI"}}', "several channels one name"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_dataset_json_is_one_message(tmp_path, name):
    text, expected = BAD[name]
    root = nnunet(tmp_path)
    (root / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=expected):
        check(root)
    with pytest.raises(UserError, match=expected):
        load(source(root), UNPAIRED, domains=("T1", "T2"), split=SPLIT)


# ---- several volumes in one file, as in MSD


@pytest.fixture
def msd(tmp_path):
    """Files of four volumes, whose k-th has values above 100 k; the last is dark around a disc."""
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    write_json(tmp_path / "dataset.json", {"modality": modality})
    for n in range(4):
        values = 50 * np.random.default_rng(n).random((24, 24, 6, 4), np.float32)
        values[np.hypot(*np.indices((24, 24)) - 11.5) > 8, :, 3] = 0
        volume(tmp_path / f"BRATS_{n}.nii", values=values + 100 * np.arange(4, dtype=np.float32))
    return tmp_path


def test_each_contrast_is_read_and_judged_by_its_own_volume(msd):
    options = {"domains": ("T1+FLAIR", "T2"), "split": SPLIT}
    data = load(source(msd), **options)
    again = load(source(msd), known=data.split_json(), **options)
    for record in (*data.records, *again.records):
        assert [*record.read().min((1, 2)) // 100] == {"a": [1, 0], "b": [3]}[record.domain]
    assert [data.values[x]["traits"]["background"] for x in "ab"] == [["bright"], ["dark"]]


def test_a_model_translates_its_contrast_of_such_files(tiny_run, msd):
    cpu = {"device": "cpu", "to": "T2", "say": print}
    translate(tiny_run, msd, msd / "out", **cpu)
    translate(tiny_run, msd / "BRATS_3.nii", msd / "one.nii", volume=1, **cpu)
    made = read(msd / "out/BRATS_3.nii").pixels
    np.testing.assert_array_equal(made, read(msd / "one.nii").pixels)


def test_such_files_are_checked_and_listed_by_their_volumes(msd):
    table = msd / "scans.csv"
    found = check(msd, table=table)

    assert found["summary"]["domains"].startswith("T1: 4 volumes")
    assert found["patients"] == 4
    for data in (load(source(msd), split=SPLIT), load(source(table, "manifest"), split=SPLIT)):
        lows = {(each.domain, int(each.read().min() // 100)) for each in data.records}
        assert lows == {("a", 1), ("b", 3)}
        assert len({each.subject for each in data.records}) == 4
