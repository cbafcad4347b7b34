"""The core stands without any bundled plugin: with all of them off and one third party's method
installed, every command of the core works on folders of pictures and on NIfTI volumes.
"""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from files import HERE, install_plugin, numbers, pictures, python, recipe, several
from PIL import Image
from tiny import read_json

pytestmark = pytest.mark.slow

METHOD = '''
"""A least-squares GAN that translates one way without pairs."""
from gantk import AdversarialLoss, Discriminator, Generator, Geometry, Method, Phase, hookimpl


class OneWay(Method):
    """Translate a to b; a discriminator judges the results."""

    reads = ("a", "b")

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "resnet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "ls",
        content: float = 1.0,  # weight of the mean absolute change
    ):
        super().__init__(geometry)
        self.g_ab = generator(geometry.channels["a"], geometry.channels["b"], geometry.dims)
        self.d_b = discriminator(geometry.channels["b"], geometry.dims)
        self.adversarial, self.content = adversarial(), content

    def phases(self):
        return [
            Phase("generator", (self.g_ab,), self.generator_losses, ema=True),
            Phase("discriminator", (self.d_b,), self.discriminator_losses),
        ]

    def generator_losses(self, batch):
        fake = self.g_ab(batch["a"])
        batch["fake_b"] = fake.detach()
        change = (fake - batch["a"]).abs().mean()
        judged = self.adversarial.generator(self.d_b(fake))
        return {"adversarial": judged, "content": self.content * change}

    def discriminator_losses(self, batch):
        real, fake = self.d_b(batch["b"]), self.d_b(batch["fake_b"])
        return {"d_b": self.adversarial.discriminator(real, fake)}

    def directions(self):
        return ["b"]

    def translate(self, image, to):
        return self.g_ab(image)


@hookimpl
def gantk_register(add):
    add.method("foreign", OneWay)
'''

FAMILIES = sorted(path.name for path in (HERE.parents[1] / "plugins").glob("gantk_*"))
TRAIN = {"steps": 4, "batch": 2, "precision": "fp32", "log_every": 1, "save_every": 2}


def tables(source: dict) -> dict:
    """A recipe of the foreign method on its own data, of seconds."""
    return {
        "format": 1,
        "method": {
            "name": "foreign",
            "generator": {"name": "unet", "width": 4, "depth": 2},
            "discriminator": {"name": "patchgan", "width": 4, "layers": 3},
        },
        "data": {"source": source, "domains": ["T1", "T2"], "size": [32, 32]},
        "train": TRAIN,
        "evaluate": {"metrics": ["psnr", "kid"], "samples": 1},
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, request) -> tuple[Path, Path]:
    """(folder of the installed method, folder of scans); every bundled family is switched off."""
    work = tmp_path_factory.mktemp("alone")
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setenv("GANTK_DISABLE", ",".join([*FAMILIES, "gantk_bench"]))
    site = install_plugin(work / "site", "gantk_foreign", METHOD)
    for domain, first in (("T1", 1), ("T2", 2)):
        pictures(work / "pictures" / domain, 12, seed=first, name="patient")
        (work / "volumes" / domain).mkdir(parents=True)
        for patient in range(6):
            voxels = numbers(100 * first + patient, (32, 32, 6), 0, 900, np.float32)
            volume = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
            nibabel.save(volume, work / "volumes" / domain / f"sub-{patient:02d}.nii.gz")

    return site, work


SOURCES = {"pictures": "folders", "volumes": "nifti"}


@pytest.fixture(scope="module", params=["pictures", "volumes"])
def commands_alone(request, alone, tmp_path_factory):
    """The kind of data, the folder worked in, one scan, and how each command ended."""
    kind = request.param
    site, work = alone
    folder = tmp_path_factory.mktemp("commands")
    source = {"name": SOURCES[kind], "path": str(work / kind)}
    (scan, *_) = sorted((work / kind / "T1").iterdir())
    table = recipe(folder / "foreign.toml", tables(source))
    one = f"one{''.join(scan.suffixes)}"
    commands = {
        "run": ["run", table, "--out", "run", "--device", "cpu", "--set", "train.steps=2"],
        "resume": ["resume", "run", "--device", "cpu"],
        "translate one": ["translate", "run", scan, one, "--device", "cpu"],
        "translate all": ["translate", "run", work / kind / "T1", "all", "--device", "cpu"],
        "eval": ["eval", "run", "--device", "cpu"],
        "report": ["report", "run"],
        "list": ["list"],
        "show": ["show", "method", "foreign"],
        "check": ["data", "check", work / kind],
        "plugins": ["plugins"],
        "doctor": ["doctor"],
    }
    ends = several(*commands.values(), cwd=folder, installed=site)
    return kind, folder, scan, dict(zip(commands, ends, strict=True))


def test_core_works_with_every_bundled_plugin_off(commands_alone):
    _, folder, _, ends = commands_alone
    assert "\n".join(end.err for end in ends.values() if end.code) == ""
    scores = read_json(folder / "run" / "metrics.json")["metrics"]
    assert {"psnr", "kid_random"} <= scores["a_to_b"].keys()
    assert (folder / "run" / "report.html").stat().st_size > 10_000
    environment = read_json(folder / "run" / "environment.json")
    assert environment["plugins"]["third_party"] == {"foreign": "gantk-foreign 1.0"}
    assert set(environment["plugins"]["left_out"]) == {*FAMILIES, "gantk_bench"}


def test_core_lists_what_is_left_without_bundled_plugins(commands_alone):
    _, _, _, ends = commands_alone
    assert "foreign" in ends["list"].out
    assert "cyclegan" not in ends["list"].out
    assert "mean absolute change" in ends["show"].out
    assert "T1" in ends["check"].out
    assert "T2" in ends["check"].out
    left_out = ends["plugins"].out.count("GANTK_DISABLE switches it off")
    assert left_out == len(FAMILIES) + 1


def test_core_translates_files_and_folders_on_their_grid(commands_alone):
    kind, folder, scan, _ = commands_alone
    inputs = {path.name for path in scan.parent.iterdir()}
    outputs = {path.name for path in (folder / "all").iterdir()}

    assert inputs <= outputs

    one = folder / f"one{''.join(scan.suffixes)}"
    if kind == "pictures":
        with Image.open(one) as image:
            assert image.size == (32, 32)
    else:
        given = nibabel.load(scan)
        output = nibabel.load(one)
        assert output.shape == given.shape
        assert np.allclose(output.affine, given.affine)


TRANSLATE_ARRAY = """
import gantk, numpy
image = numpy.random.rand(32, 32)
print(gantk.load('run').translate(image, to='T2').shape)
"""


def test_core_translates_arrays(alone, commands_alone):
    site, _ = alone
    _, folder, _, _ = commands_alone
    done = python("-c", TRANSLATE_ARRAY, installed=site, cwd=folder)

    assert done.out.strip() == "(32, 32)", done.err
