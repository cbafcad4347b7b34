"""Arrays, tensors and data sets of `gantk.run(data=...)` become files and a table."""

import csv

import numpy as np
import pytest
import torch

from gantk.data.arrays import keep
from gantk.errors import UserError

A = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
B = np.random.default_rng(1).random((3, 16, 16))

VOLUMES = np.random.default_rng(2).random((2, 6, 16, 16))


class Items(torch.utils.data.Dataset):
    """A data set of dicts with tensors, and a key that means nothing."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return {"T1": torch.from_numpy(A[number]), "b": B[number], "patient": f"p{number}", "x": 1}


def rows_of(folder):
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


DATA = {  # data -> patients and pairs of T1, and of T2
    "pairs": ({"T1": A, "T2": B, "patient": ["p", "q", "r"]}, "p-row-0 q-row-1 r-row-2", None),
    "no pairs": ({"T1": A, "T2": B, "pair": False}, "- - -", None),
    "volumes": (
        {"t1": VOLUMES, "T2": VOLUMES[:, None]},
        "scan-row-0-row-0 scan-row-1-row-1",
        None,
    ),
    "a data set": (Items(), "p0-row-0 p1-row-1 p2-row-2", None),
    "a list": ([{"T1": A[0], "T2": B[0]}], "-row-0", None),
    "names of pairs": ({"T1": A, "T2": B, "pair": ["x", "y", "z"]}, "-x -y -z", None),
}


@pytest.mark.parametrize("name", DATA)
def test_data_in_python_become_a_table(tmp_path, name):
    data, first, second = DATA[name]
    source, _ = keep(data, tmp_path / "data", ("T1", "T2"))
    rows = rows_of(tmp_path / "data")
    said = {
        domain: " ".join(
            f"{r.get('patient', '')}-{r.get('pair', '')}" for r in rows if r["domain"] == domain
        )
        for domain in ("T1", "T2")
    }
    assert said == {"T1": first, "T2": second or first}
    assert source == {"name": "manifest", "path": str(tmp_path / "data" / "table.csv")}
    assert all((tmp_path / "data" / row["path"]).exists() for row in rows)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"T1": A, "T2": B, "patients": ["p", "q", "r"]}, "'patients'.* Did you mean 'patient'"),
        ({"T1": A, "T3": B}, "contain 'T3'"),
        ({"T1": A, "T2": B, "patient": ["p"]}, "T1, T2, patient have different lengths"),
        ({"T1": A, "T2": B * np.nan}, "256 values that are NaN"),
        (5, "the type int cannot be used"),
        ({"T1": 0}, "T1 have different lengths, or one is no list"),
    ],
    ids=["typo", "domain", "lengths", "nan", "number", "scalar"],
)
def test_data_that_cannot_be_trained_on_are_refused(tmp_path, data, says):
    with pytest.raises(UserError, match=says):
        keep(data, tmp_path / "data", ("T1", "T2"))
