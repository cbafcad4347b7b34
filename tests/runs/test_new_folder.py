"""A new run folder takes a free name, and says so where it cannot be created."""

import pytest

from gantk.errors import UserError
from gantk.runs.folder import new_folder


def test_a_taken_name_gets_a_number(tmp_path):
    names = [new_folder(tmp_path / "runs" / "one").name for _ in range(3)]

    assert names == ["one", "one-2", "one-3"]


def test_a_file_in_place_of_the_folder_of_runs_is_named(tmp_path):
    (tmp_path / "runs").write_text("notes on my runs\n", "utf-8")

    with pytest.raises(UserError) as caught:
        new_folder(tmp_path / "runs" / "one")

    assert "runs' is a file, not a folder. Name another folder.  (out)" in str(caught.value)
