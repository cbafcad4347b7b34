"""Pictures of test images have an outline of the lesion where there is a mask, and nowhere else."""

import base64
import io

import numpy as np
import pytest
from pages import Page
from PIL import Image
from tiny import TINY, write_toml
from volumes import volume

import gantk
from gantk.report.patients.comparing import write_model_figures

SAID = "Outline: the lesion."
MASK = {"data.source.mask": "seg"}
QUIET = {"device": "cpu", "say": lambda line: None}


def scans(folder):
    """Pairs of dark noise with a bright lesion of 3 x 3 pixels in each slice, and its mask."""
    lesion = np.zeros((12, 14, 16), np.uint8)
    lesion[5:8, 6:9] = 1
    for patient in range(6):
        here = folder / f"p{patient}"
        for number, contrast in enumerate(("T1", "T2")):
            noise = np.random.default_rng(2 * patient + number).random(lesion.shape)
            volume(here / f"{contrast}.nii", values=(noise + 9 * lesion).astype(np.float32))
        volume(here / "seg.nii", values=lesion)
    return folder


def train(folder, data, settings):
    shape = {"source": "nifti", "size": [16, 16], "intensity": "percentile"}
    recipe = TINY | {"data": TINY["data"] | shape, "train": TINY["train"] | {"steps": 1}}
    write_toml(folder / "recipe.toml", recipe)
    made = folder / f"run{len(settings)}"
    return gantk.run(folder / "recipe.toml", data=data, set=settings, out=made, **QUIET).path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Runs with masks and without."""
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder, data, settings) for settings in (MASK, {})]


def outlined(picture):
    """Where a picture is cyan."""
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
    return (red < 40) & (green > 215) & (blue > 215)


def drawn(page):
    """The pictures of test images on a page, by what they show."""
    for source, what in zip(page.having("src"), page.having("alt"), strict=True):
        if " of test patient" in what:
            content = base64.b64decode(source.partition("base64,")[2])
            yield what, Image.open(io.BytesIO(content))


def test_a_page_outlines_lesions_where_there_are_masks(runs, tmp_path):
    with_masks, without = runs
    both = gantk.write_report(*runs, out=tmp_path / "both.html", say=lambda line: None)
    for path in (with_masks / "report.html", both):
        page = Page(path)
        pictures = [*drawn(page)]
        assert len(pictures) >= 8
        assert SAID in page.words
        for what, picture in pictures:
            line = outlined(picture)
            rows, columns = np.nonzero(line)
            around = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            assert line.sum() == 12 and line[around].shape == (5, 5)
            if what.startswith(("Input", "Real")):
                gray = np.where(line, 0, np.asarray(picture.convert("L")))
                inside = gray[around][1:-1, 1:-1]
                assert inside.min() > 2 * (gray.sum() - inside.sum()) / gray.size

    page = Page(without / "report.html")
    assert [*drawn(page)] and not any(outlined(picture).any() for _, picture in drawn(page))
    assert SAID not in page.words


@pytest.mark.parametrize("settings", [MASK, {}])
def test_figures_outline_lesions_where_there_are_masks(settings, data, runs, tmp_path):
    run = runs[1]  # the mask of scans counts, not that of the training
    found = gantk.compare_models([run], data, metrics=["mae"], set=settings, **QUIET)
    write_model_figures(found, tmp_path / "models", say=lambda line: None)
    of_run = runs[0] if settings else runs[1]
    gantk.write_report(of_run, figures=tmp_path / "run", say=lambda line: None)
    for figure in [*tmp_path.rglob("T*.png")]:
        with Image.open(figure) as sheet:
            panels = np.array_split(outlined(sheet), 5, axis=1)  # four pictures, a scale
        assert [bool(panel.any()) for panel in panels[:4]] == [bool(settings)] * 4
        assert (SAID in figure.with_suffix(".txt").read_text("utf-8")) is bool(settings)
    assert len([*tmp_path.rglob("T*.png")]) == 4
