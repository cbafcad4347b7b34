"""`gantk new plugin` writes a package that works as written, or nothing at all."""

from __future__ import annotations

import tomllib

import pytest
from packages import install, python

from gantk.errors import UserError
from gantk.plugin import scaffold


def test_the_package_works_as_written(tmp_path):
    package = scaffold.new_plugin("MyGAN", tmp_path)
    install(package, tmp_path / "installed", tmp_path)

    found = python("-m", "gantk", "plugins", cwd=tmp_path, path=tmp_path / "installed")
    assert "mygan" in found.stdout and "did not load" not in found.stdout, found.stdout + found.stderr

    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package, path=tmp_path / "installed")
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout

    run = ["-m", "gantk", "run", "mygan_t1t2", "--out", "run", "--device", "cpu", "--precision", "fp32"]
    tiny = ["train.steps=2", "data.source.subjects=6", "data.source.slices=2", "data.size=[32, 32]"]
    settings = [word for setting in tiny for word in ("--set", setting)]
    trained = python(*run, *settings, cwd=tmp_path, path=tmp_path / "installed")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_names_follow_from_the_one_given(tmp_path):
    package = scaffold.new_plugin("My-GAN2", tmp_path)
    assert package == tmp_path / "my-gan2"
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"]["gantk"] == {"my_gan2": "my_gan2"}
    assert "class MyGAN2(Method):" in (package / "src" / "my_gan2" / "model.py").read_text("utf-8")
    assert "class TestMyGAN2(MethodContract):" in (package / "tests" / "test_contract.py").read_text("utf-8")
    assert not list(package.rglob("*.in"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("2gan", "cannot be the name of a package"),
        ("my gan", "words joined by - or _"),
        ("../gan", "cannot be the name of a package"),
        ("", "cannot be the name of a package"),
        ("class", "means something in Python"),
        ("JSON", "means something in Python"),
        ("cyclegan", "the method 'cyclegan' is taken by 'gantk'"),
        ("torch", "a package 'torch' is installed already"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(name, words, tmp_path):
    with pytest.raises(UserError, match="(?s)" + words.replace("(", r"\(")):
        scaffold.new_plugin(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_or_missing_folder_and_a_full_disk_leave_everything_as_it_was(tmp_path, monkeypatch, gantk):
    def full(*names):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="there is no folder '.*nowhere'"):
        scaffold.new_plugin("mygan", tmp_path / "nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(scaffold.os, "rename", full)
        with pytest.raises(UserError, match="No space left on device"):
            scaffold.new_plugin("mygan", tmp_path)
    assert not list(tmp_path.iterdir())
    outcome = gantk("new", "plugin", "mygan", "--folder", tmp_path)
    assert outcome.code == 0 and str(tmp_path / "mygan") in outcome.out and "pip install -e" in outcome.out
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        scaffold.new_plugin("mygan", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
