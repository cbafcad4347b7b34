"""The core stands without any bundled plugin: with all of them off and one third party's method
installed, every command of the core works on folders of pictures and on NIfTI volumes.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from files import HERE, install_plugin, numbers, pictures, python, recipe, several
from PIL import Image

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


@pytest.mark.parametrize("kind", ["pictures", "volumes"])
def test_core_works_with_every_bundled_plugin_off(alone, kind, tmp_path):
    site, work = alone
    name = {"pictures": "folders", "volumes": "nifti"}[kind]
    source = {"name": name, "path": str(work / kind)}
    run = ["run", recipe(tmp_path / "foreign.toml", tables(source)), "--out", "run"]
    (one_scan, *_) = sorted((work / kind / "T1").iterdir())
    ending = "".join(one_scan.suffixes)
    ends = several(
        [*run, "--device", "cpu", "--set", "train.steps=2"],
        ["resume", "run", "--device", "cpu"],
        ["translate", "run", one_scan, f"one{ending}", "--device", "cpu"],
        ["translate", "run", work / kind / "T1", "all", "--device", "cpu"],
        ["eval", "run", "--device", "cpu"],
        ["report", "run"],
        ["list"],
        ["show", "method", "foreign"],
        ["data", "check", work / kind],
        ["plugins"],
        ["doctor"],
        cwd=tmp_path,
        installed=site,
    )
    assert "\n".join(end.err for end in ends if end.code) == ""
    listed, shown, checked, plugins = (end.out for end in ends[6:10])
    assert "foreign" in listed
    assert "cyclegan" not in listed
    assert "mean absolute change" in shown
    assert "T1" in checked
    assert "T2" in checked
    assert plugins.count("left out by GANTK_DISABLE") == len(FAMILIES) + 1
    scores = json.loads((tmp_path / "run/metrics.json").read_text("utf-8"))["metrics"]
    assert {"psnr", "kid_random"} <= scores["a_to_b"].keys()
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    made = sorted(path.name for path in (tmp_path / "all").iterdir() if path.name[0] != ".")
    assert {path.name for path in (work / kind / "T1").iterdir()} <= set(made)
    environment = json.loads((tmp_path / "run/environment.json").read_text("utf-8"))
    assert environment["plugins"]["third_party"] == {"foreign": "gantk-foreign 1.0"}
    assert set(environment["plugins"]["left_out"]) == {*FAMILIES, "gantk_bench"}
    code = "import gantk, numpy; a = numpy.random.rand(32, 32); print(gantk.load('run').translate(a, to='T2').shape)"
    array = python("-c", code, installed=site, cwd=tmp_path)
    assert array.out.strip() == "(32, 32)", array.err
    if kind == "pictures":
        with Image.open(tmp_path / f"one{ending}") as image:
            assert image.size == (32, 32)
    else:
        given = nibabel.load(one_scan)
        output = nibabel.load(tmp_path / f"one{ending}")
        assert output.shape == given.shape
        assert np.allclose(output.affine, given.affine)
