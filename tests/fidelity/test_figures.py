"""A published figure stands beside its own system and direction, wherever it is shown. The list of all
is `paper.figures` in stated.toml.
"""

import re
import tomllib

import pytest
from tiny import ROOT

pytestmark = pytest.mark.fidelity

REPORTS = tomllib.loads((ROOT / "tests" / "fidelity" / "stated.toml").read_text("utf-8"))
FIGURES = {
    recipe: system["paper"]["figures"]
    for report in REPORTS.values()
    for recipe, system in report.get("systems", {}).items()
    if system.get("paper", {}).get("figures")
}
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
DIRECTIONS = {"T1 -> T2": "a_to_b", "T2 -> T1": "b_to_a"}
# Figures that hardly anything but their report has.
RARE = r"(?<![\d.])(?:8\.09|10\.91|89\.02|0\.8902|4\.2999|8\.2126|3\.8712|6\.5682|7\.988|9\.1280?)(?!\d)"
# "CycleGAN T1 -> T2: 8.09 dB / 0.00", or a row: "CycleGAN T1 -> T2 | 8.09 / 0.00"
SCORES = r"\b(CycleGAN|DualGAN) (T1 -> T2|T2 -> T1)(?:| \||:) (\d+\.\d+)(?: dB)?(?: / (\d\.\d+))?"
# "DCGAN + style: accuracy 95.6 %", or a row: "DCGAN + style | accuracy 95.6 %"
ACCURACY = r"\b(DCGAN|Pix2Pix|ProGAN)( \+ style)?(?:| \||:) (?:accuracy )?(\d[\d.]*) %"
# "Generator: DCGAN 8.2126, Pix2Pix 6.5682, ProGAN 9.1280"
LOSSES = r"\b(Discriminator|Generator): DCGAN ([\d.]+), Pix2Pix ([\d.]+), ProGAN (\d+\.\d+)"
# "and with style transfer 95.6 %, 93.7 %, 92.8 %" behind the three
STYLED = r"with style transfer (\d[\d.]*) %, (\d[\d.]*) %, (\d[\d.]*) %"
# a cell of the table of quick runs: "Accuracy with style transfer, undefined in the report: 0.956"
CELL = r"(?:Accuracy|Loss)[^:|]*: \d[\d.]*(?=[,| ])"


def text_of(page):
    """A page on one line, with plain arrows."""
    return re.sub(r"\s+", " ", page.read_text("utf-8").replace("→", "->"))


def stated_scores(system, direction):
    """PSNR and SSIM that a report gives for a system in a direction."""
    figures = FIGURES.get(f"{system.lower()}_t1t2_unet15", {}).get(DIRECTIONS[direction], {})
    return figures.get("psnr"), figures.get("ssim")


def stated_accuracy(system, styled):
    """The accuracy that R4 gives for a system, in percent."""
    figures = FIGURES[f"{system.lower()}_tumour"]
    return 100 * figures["accuracy_with_style_transfer" if styled else "accuracy"]


def wrong_scores(text):
    """Every score on a page that its report does not give to that system and direction."""
    wrong = []
    for found in re.finditer(SCORES, text):
        system, direction, psnr, ssim = found.groups()
        stated = stated_scores(system, direction)
        if stated[0] != float(psnr) or (ssim and stated[1] != float(ssim)):
            wrong.append(found[0])
    return wrong


def wrong_accuracies(text):
    """Every accuracy on a page that R4 does not give to that system."""
    wrong = []
    for found in re.finditer(ACCURACY, text):
        system, styled, percent = found.groups()
        if abs(stated_accuracy(system, bool(styled)) - float(percent)) > 1e-9:
            wrong.append(found[0])
    for found in re.finditer(STYLED, text):
        stated = [stated_accuracy(system, True) for system in ("DCGAN", "Pix2Pix", "ProGAN")]
        if any(abs(x - float(y)) > 1e-9 for x, y in zip(stated, found.groups(), strict=True)):
            wrong.append(found[0])
    return wrong


def rows_of_systems(page):
    """(recipe, cells) of every row of a table that begins with a published system's recipe."""
    for line in page.read_text("utf-8").splitlines():
        recipe = re.match(r"\| `(\w+)`[^|]*\|", line)
        if recipe and recipe[1] in FIGURES:
            yield recipe[1], [cell.strip() for cell in line.strip("| ").split(" | ")]


def wrong_losses(text):
    """Every final loss on a page that R4 does not give to that system."""
    wrong = []
    for found in re.finditer(LOSSES, text):
        role, *shown = found.groups()
        for system, loss in zip(("dcgan", "pix2pix", "progan"), shown, strict=True):
            if FIGURES[f"{system}_tumour"][f"loss_{role.lower()}"] != float(loss):
                wrong.append(found[0])
    return wrong


def wrong_cells(page):
    """Every published figure in a recipe's row of a table that is not the recipe's own."""
    wrong = []
    for recipe, cells in rows_of_systems(page):
        own = FIGURES[recipe]
        for cell in cells:
            if recipe.endswith("_unet15") and re.search(RARE, cell) and cell != scores_cell(own):
                wrong.append((recipe, cell))
            for found in re.findall(CELL, cell + " "):
                words, number = found.split(": ")
                key = words.lower().replace(", undefined in the report", "").replace(" ", "_")
                digits = len(number.partition(".")[2])
                if key not in own or round(own[key], digits) != float(number):
                    wrong.append((recipe, found))
    return wrong


def scores_cell(figures):
    """Scores of both directions as a table of quick runs shows them, a dash for none."""
    cells = []
    for way in ("a_to_b", "b_to_a"):
        scores = figures.get(way)
        cells.append(f"{scores['psnr']:.2f} / {scores['ssim']:.2f}" if scores else "–")
    return "<br>".join(cells)


def test_recipes_state_the_published_figures_and_no_other():
    recipes = {
        path.stem: tomllib.loads(path.read_text("utf-8"))
        for path in (ROOT / "recipes").glob("*.toml")
    }
    published = {
        name: tables["paper"]["published"]
        for name, tables in recipes.items()
        if "published" in tables.get("paper", {})
    }

    assert published == FIGURES


def test_pages_show_published_figures_beside_their_system():
    wrong = []
    for page in PAGES:
        text = text_of(page)
        found = wrong_scores(text) + wrong_accuracies(text) + wrong_losses(text) + wrong_cells(page)
        wrong += [(page.name, each) for each in found]

    assert wrong == []


def test_no_published_figure_stands_without_its_system():
    alone = []
    for page in PAGES:
        rows = " ".join(str(cells) for _, cells in rows_of_systems(page))  # judged as cells
        text = re.sub(f"{SCORES}|{ACCURACY}|{LOSSES}", "", text_of(page))
        alone += [
            (page.name, figure)
            for figure in re.findall(RARE, text)
            if figure not in re.findall(RARE, rows)
        ]

    assert alone == []


def test_readme_and_page_show_both_published_scores():
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "results" / "published-systems.md"):
        shown = {found.groups()[:3] for found in re.finditer(SCORES, text_of(page))}

        assert shown == {("CycleGAN", "T1 -> T2", "8.09"), ("DualGAN", "T2 -> T1", "10.91")}


def test_the_page_shows_all_six_accuracies():
    page = ROOT / "benchmarks" / "results" / "published-systems.md"
    shown = {found.groups() for found in re.finditer(ACCURACY, text_of(page))}

    assert len(shown) == 6
