"""What is scored is what is written: `eval RUN` scores the files that `translate` writes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import pytest
from opens import count_opens
from PIL import Image as Picture
from tiny import read_json, train_without_scores

import gantk
from gantk.errors import UserError
from gantk.formats import files

ALIKE = 1e-4
SCORES = ("psnr", "ssim", "mae")


def silent(line: object) -> None:
    """Say nothing."""


def head(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth ellipsoid of 100 to 200 in air, exactly 0, with blobs of its own."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    blobs = sum(
        50
        * np.exp(
            -((grid - rng.uniform(-0.5, 0.5, (len(shape), *[1] * len(shape)))) ** 2).sum(0) / 0.05
        )
        for _ in range(4)
    )
    return inside * (100 + blobs)


def contrasts(seed: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """T1 and T2 of one head: bright where the other is dark, in the same air."""
    one = head(seed, shape)
    return {"T1": one, "T2": (one > 0) * (330 - one)}


def save_picture(path: Path, values: np.ndarray) -> None:
    Picture.fromarray(values.round().clip(0, 255).astype(np.uint8)).save(path)


def save_nifti(path: Path, values: np.ndarray) -> None:
    # equal slices: only those of the middle are scored
    shown = np.repeat(values[..., 6:7], 6, -1).astype(np.int16)
    nib.save(nib.Nifti1Image(shown, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def save_floats(path: Path, values: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


def save_dicom(path: Path, values: np.ndarray) -> None:
    pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "gantk[dicom]"')
    names = {"PatientID": path.name, "SeriesDescription": path.parent.name}
    dicom_files.series(path, np.repeat(values[5:6], 4, 0).astype(np.int16), **names)


@dataclass(frozen=True)
class Kind:
    """A kind of file, and how one of a test patient is named and written."""

    name: str
    shape: tuple[int, ...]
    save: object
    dims: int = 2


KINDS = {
    "pictures": Kind("{}.png", (32, 32), save_picture),
    "nifti": Kind("{}.nii.gz", (32, 32, 12), save_nifti),
    "volumes": Kind("{}.nii.gz", (16, 16, 16), save_floats, dims=3),
    "dicom": Kind("{}", (10, 32, 32), save_dicom),
}
VARIATIONS = {
    "plain": {},
    "masked": {"translate": {"masked": True}},
    "crop": {"data": {"fit": "crop"}},
    "post": {"post": ["bias_field"]},
}


def write_scans(folder: Path, kind: Kind) -> Path:
    for number in range(5):
        for domain, values in contrasts(number, kind.shape).items():
            path = folder / domain / kind.name.format(f"p{number:02d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            kind.save(path, values)
    return folder


def train(scans: Path, out: Path, kind: Kind, **tables: dict) -> Path:
    size = [16] * 3 if kind.dims == 3 else [32, 32]
    data = {
        "domains": ["T1", "T2"],
        "dims": kind.dims,
        "size": size,
        "split": {"test": 0.4, "validation": 0.0, "by": "image" if kind.dims == 3 else "patient"},
    }
    networks = {
        "generator": {"name": "unet", "width": 4, "depth": 2},
        "discriminator": {"name": "patchgan", "width": 4, "layers": 3},
    }
    recipe = {
        "method": {"name": tables.pop("method", "pix2pix"), **networks},
        "data": data | tables.pop("data", {}),
        "train": {"steps": 3, "batch": 1, "precision": "fp32"},
        "evaluate": {"metrics": list(SCORES), "samples": 1},
        **tables,
    }
    settings = {"data.source.patient": "^(p[0-9]+)"}
    return train_without_scores(recipe, out, data=str(scans), set=settings, allow_leakage=True)


def link_test_files(run: Path, scans: Path, folder: Path) -> tuple[Path, Path]:
    """Folders with the test patients' files of T1 and of T2."""
    listed = read_json(run / "split.json")["splits"]["test"]
    patients = set(re.findall(r"\bp[0-9]{2}", json.dumps(listed)))
    sides = []
    for domain in ("T1", "T2"):
        side = folder / domain
        side.mkdir(parents=True)
        for path in sorted((scans / domain).iterdir()):
            if path.name[:3] in patients:
                (side / path.name).symlink_to(path)
        sides.append(side)

    assert len(list(sides[0].iterdir())) == 2
    return sides[0], sides[1]


CASES = [
    *((name, variation) for name in ("pictures", "nifti") for variation in VARIATIONS),
    *(("dicom", variation) for variation in ("masked", "post")),
    *(("volumes", variation) for variation in ("masked", "crop")),
]


@pytest.mark.quick_cases("nifti-post")
@pytest.mark.parametrize(("name", "variation"), CASES)
def test_a_run_scores_the_files_that_it_writes(name, variation, tmp_path):
    """At the network's size the mean absolute error in gray levels is that of the files."""
    kind = KINDS[name]
    scans = write_scans(tmp_path / "scans", kind)
    run = train(scans, tmp_path / "run", kind, **VARIATIONS[variation])
    scores = gantk.evaluate(run, device="cpu", say=silent)["metrics"]
    table = scores.get("a_to_b_post") or scores["a_to_b"]
    sources, truths = link_test_files(run, scans, tmp_path / "files")
    out = tmp_path / "out"
    gantk.translate(run, sources, out, to="T2", device="cpu", say=silent)
    compared = gantk.compare(out, truths, metrics=["mae"], device="cpu", say=silent)
    by_files = compared["metrics"]["pred_to_truth"]["mae"]["value"]
    meta = json.loads(next(run.glob("checkpoints/*/meta.json")).read_text("utf-8"))
    low, high, *_ = meta["intensity"]["b"]["fitted"]

    assert table["mae"]["value"] * (high - low) / 2 == pytest.approx(by_files, rel=ALIKE)


def test_thin_volumes_have_no_ssim(tmp_path):
    scans = write_scans(tmp_path, Kind("{}.nii.gz", (40, 36, 12), save_nifti))
    sides = scans / "T1", scans / "T2"
    said = []
    found = gantk.compare(*sides, say=lambda line: said.append(str(line)))

    reason = "images of 6 x 36 x 40 are too small for the metric ssim, which needs 11 pixels"
    assert f"SSIM: {reason}" in " ".join(" ".join(said).split())
    assert found["metrics"]["pred_to_truth"]["psnr"]["value"] > 0
    with pytest.raises(UserError, match="needs 11 pixels") as refused:
        gantk.compare(*sides, metrics=["ssim"], say=silent)
    assert refused.value.where == "--metrics"


def opens_of(work) -> dict:
    with count_opens() as opens:
        work()
    return opens


def test_an_evaluation_reads_each_image_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE_GIB", "0")
    kind = KINDS["nifti"]
    scans = write_scans(tmp_path / "scans", kind)
    with count_opens() as trained:
        run = train(scans, tmp_path / "run", kind, method="cyclegan", **VARIATIONS["post"])
    sides = link_test_files(run, scans, tmp_path / "files")
    truth = next(sides[1].iterdir())
    (read,) = opens_of(lambda: files.read(truth)).values()
    (header,) = opens_of(lambda: files.outline(truth)).values()

    for path in scans.rglob("*.nii.gz"):
        assert trained[str(path.resolve())] == read + 1 + header
    opens = opens_of(lambda: gantk.evaluate(run, device="cpu", say=silent))
    for side in sides:
        for path in side.iterdir():
            # its hash, and a look at its header
            assert opens[str(path.resolve())] == read + 1 + header

    opens = opens_of(lambda: gantk.compare(*sides, match=True, device="cpu", say=silent))
    for side in sides:
        for path in side.iterdir():
            assert opens[str(path.resolve())] == read
