"""A run folder has one writer at a time, and what is written is there whole or not at all."""

import ast
import errno
import fcntl
import json
import os
import platform

import pytest
from tiny import ROOT

from gantk import files
from gantk.errors import UserError

# What writes below a folder that is hidden until it is whole, or what a reader checks. Lines may be
# added to a log.
IN_PLACE = {
    "gantk/data/cache.py",  # a hidden name, then a rename; entries are checksummed
    "gantk/files.py",  # the one writer itself
    # these write into the hidden folder that formats.files.write gives them
    "gantk/formats/files.py",
    "gantk/formats/image.py",
    "gantk/training/loop.py",  # table.txt and the trace, in a whole_folder
    # a download that goes on where it stopped, in a hidden folder
    "plugins/gantk_datasets/public/download.py",
    "gantk/formats/itk.py",
    "plugins/gantk_dicom/write.py",
    "plugins/gantk_models/monai/bundle.py",
    "gantk/scaffold/scaffold.py",
    "gantk/errors.py",  # a traceback, in a new file of the system's temporary folder
    # a series of an Orthanc, in a temporary folder of its own
    "plugins/gantk_serve/worker.py",
    "plugins/gantk_serve/images.py",
}


def written_in_place(path) -> list[int]:
    """The lines of a module that open a file for writing under its own name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [
                a.value
                for a in node.args
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            opened = name == "open" and any(
                set(mode) & set("wx") and len(mode) < 4 for mode in modes
            )
            if name in ("write_text", "write_bytes") or opened:
                found.append(node.lineno)

    return found


def test_every_file_is_written_by_the_one_writer():
    modules = (path for room in ("gantk", "plugins") for path in (ROOT / room).rglob("*.py"))
    modules = [path for path in modules if not {"testing"} & {*path.parts}]
    found = {
        str(path.relative_to(ROOT)): lines for path in modules if (lines := written_in_place(path))
    }

    assert set(found) <= IN_PLACE, {
        name: lines for name, lines in found.items() if name not in IN_PLACE
    }


@pytest.mark.parametrize("holder", ["here, alive", "here, gone", "elsewhere", "damaged"])
def test_where_a_disk_knows_no_locks_who_is_written_down_counts(tmp_path, monkeypatch, holder):
    def unknown(*words):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    pid = os.getppid() if holder == "here, alive" else 2**22 + 1
    record = json.dumps({"pid": pid, "host": "other" if holder == "elsewhere" else platform.node()})
    (tmp_path / files.LOCK).write_text('{"pid": [' if holder == "damaged" else record)
    if holder in ("here, gone", "damaged"):
        with files.lock_folder(tmp_path):
            assert f'"pid": {os.getpid()}' in (tmp_path / files.LOCK).read_text()
    else:
        words = rf"remove '.*{files.LOCK}'" if holder == "elsewhere" else f"process {pid} "
        with pytest.raises(UserError, match=words):
            files.lock_folder(tmp_path).__enter__()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_lock_is_no_link_and_needs_a_writable_folder(tmp_path, monkeypatch, number):
    (tmp_path / "target").write_text("untouched")
    (tmp_path / files.LOCK).symlink_to("target")

    with pytest.raises(UserError, match="is not a lock file of gantk"), files.lock_folder(tmp_path):
        pass

    assert (tmp_path / "target").read_text() == "untouched"

    def denied(*words):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", denied)
    with files.lock_folder(tmp_path):
        pass
