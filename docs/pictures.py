"""Makes the pictures of the documentation, from short trainings on synthetic heads.

    python docs/pictures.py              # all that are missing
    python docs/pictures.py cut failure  # these, again

Each picture is made alone. Trainings stay in a folder (--work) and are resumed where they stopped,
so that an interrupted call can be repeated. Pictures of pages need Chromium; that of Orthanc
needs Debian's packages orthanc and dcmtk too.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "pictures"
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "tests")]

MAX_PICTURE_BYTES = 150_000
MAX_TOTAL_BYTES = 2_000_000
CELL = 160  # pixels of one image in a strip
GAP = 8  # between two images
TITLE = 26  # pixels above a row
COLOURS = (256, 128, 64)  # the most with which a picture is small enough
PLAN_LINES = 36  # of the recipe
PLAN_HEIGHT = 900  # pixels at most
BACKGROUND = (20, 22, 26)
INK = (225, 225, 225)
SMALL = ("data.size=[64, 64]", "data.source.subjects=60")


@dataclass(frozen=True)
class Training:
    """A short training: a bundled recipe, its profile and settings."""

    recipe: str
    settings: tuple[str, ...] = ()
    profile: str = ""


TRAININGS = {
    "dualgan": Training("dualgan_t1t2"),
    "cyclegan": Training("cyclegan_t1t2", (*SMALL, "train.steps=400")),
    "ct": Training("cyclegan_ct_mr_matched", ("train.steps=450",), "cpu"),
    "pix2pix": Training("pix2pix_t1t2", (*SMALL, "train.steps=500", "method.generator.width=16")),
    "munit": Training("munit_heads", ("train.steps=300",)),
    "reggan": Training("reggan_t1t2", ("train.steps=300",), "cpu"),
    "cut": Training("cut_t1t2", ("train.steps=400",)),
    "spade": Training("spade_tumour", ("train.steps=300",), "cpu"),
    "dcgan": Training("dcgan_phantom", ("train.steps=1000",)),
    "progan": Training("progan_phantom", ("train.steps=1200",)),
    "r3gan": Training("r3gan_tumour", ("train.steps=300",), "cpu"),
    "style": Training("style_t1t2"),
    "ct-plain": Training("cyclegan_ct_mr", ("train.steps=190",), "cpu"),
    "tumour-dcgan": Training("dcgan_tumour_style", ("train.steps=900",), "cpu"),
    "tumour-pix2pix": Training("pix2pix_tumour_style", ("train.steps=600",), "cpu"),
    "tumour-progan": Training("progan_tumour_style", ("train.steps=700",), "cpu"),
    # cycle consistency alone: which tissue becomes which is left to chance
    "inverted": Training(
        "dualgan_t1t2",
        (
            *SMALL,
            'method.pairs="none"',
            "method.local_ncc=0.0",
            "method.flat_region=0.0",
            "method.low_res_warmup=0.0",
            "train.steps=300",
            "train.seed=1",
        ),
    ),
    # without weak pairs and too short: contrast is guessed, and guessed wrong
    "failure": Training("cyclegan_t1t2", (*SMALL, "train.steps=400"), "plain"),
}


# ---- trainings


def command(*words: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment of a command of gantk."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    return [sys.executable, "-m", "gantk", *words], {**os.environ, "PYTHONPATH": path}


def gantk(work: Path, *words: str) -> None:
    """Run a command of gantk in the folder of trainings; its output goes to the terminal."""
    arguments, environment = command(*words)
    subprocess.run(arguments, cwd=work, env=environment, check=True)


def trained(name: str, work: Path) -> Path:
    """The run folder of a training, which is started or resumed if it is not finished."""
    run = work / name
    if (run / "metrics.json").is_file():
        return run

    if any(run.glob("checkpoints/step-*")):
        gantk(work, "resume", name)
        return run

    shutil.rmtree(run, ignore_errors=True)
    training = TRAININGS[name]
    words = [word for setting in training.settings for word in ("--set", setting)]
    if training.profile:
        words += ["--profile", training.profile]
    gantk(work, "run", training.recipe, *words, "--out", name, "--device", "cpu")
    return run


# ---- strips: input, generated, real


def strip(name: str, work: Path) -> Image.Image:
    """The typical image of a run's first direction; generated above real ones for those from
    noise.
    """
    from gantk.report.patients.section import shown_patients
    from gantk.report.run_record import RunRecord
    from gantk.report.summary import typical_images

    record = RunRecord(trained(name, work))
    figure = typical_images(record, shown_patients(record))[0]
    rows = [[(title, _decode(uri)) for title, uri in row] for row in figure.rows]
    if len(rows) > 1:
        rows = [row[:4] for row in rows]
    return draw_rows(rows, CELL)


def pictures_of_patients(found) -> list[dict[str, Image.Image]]:
    """The pictures of four patients of a run, one of each, by their titles."""
    from gantk.report.figures import picture_row

    cases = list({case.stored.patient: case for case in found.cases}.values())[:4]
    return [dict(picture_row(case.pictures, case.titles, 1.0)) for case in cases]


def generated_and_real(work: Path) -> Image.Image:
    """Generated images of each direction above real ones of other patients."""
    from gantk.report.patients.section import shown_patients
    from gantk.report.run_record import RunRecord

    rows = []
    for found in shown_patients(RunRecord(trained("ct-plain", work))):
        pictures = pictures_of_patients(found)
        for kind, shift in (("output", 0), ("truth", 2)):
            title = found.cases[0].titles[kind]
            rows.append([(title, each[title]) for each in pictures[shift:] + pictures[:shift]])
    return draw_rows(rows, CELL * 3 // 4)


TUMOUR_SYSTEMS = ("DCGAN", "Pix2Pix", "ProGAN")


def tumours(work: Path) -> Image.Image:
    """Images of the three systems of report 5, before and after the style step."""
    from gantk.report.patients.section import shown_patients
    from gantk.report.run_record import RunRecord

    rows = []
    for system in TUMOUR_SYSTEMS:
        name = f"tumour-{system.lower()}"
        run = trained(name, work)
        if system == "Pix2Pix":
            (found,) = shown_patients(RunRecord(run))
            pictures = pictures_of_patients(found)
            for title in found.cases[0].titles.values():
                rows.append([(f"Pix2Pix: {title}", each[title]) for each in pictures])
            continue
        for words, options in (("", ("--no-post",)), (", after the style step", ())):
            pictures = from_noise(work, name, *options)
            rows.append([(f"{system}{words}", each) for each in pictures])
    return draw_rows(rows, CELL // 2)


def from_noise(work: Path, name: str, *options: str) -> list[Image.Image]:
    """Four images that a training draws from noise."""
    import numpy as np

    with tempfile.TemporaryDirectory(dir=work) as folder:
        gantk(work, "sample", name, "-n", "4", "--out", folder, "--overwrite", *options)
        pixels = [np.asarray(Image.open(file)) for file in sorted(Path(folder).glob("*.png"))]
    return [Image.fromarray((255.0 * each / each.max()).astype(np.uint8)) for each in pixels]


def draw_panels(height: float, draw: Callable) -> Image.Image:
    """A panel for each of the three systems, which `draw(system, axis)` fills; inches high."""
    from matplotlib import pyplot

    colour = tuple(level / 255 for level in BACKGROUND)
    with pyplot.style.context("dark_background"):
        figure, axes = pyplot.subplots(1, 3, figsize=(10, height), facecolor=colour, dpi=100)
        for system, axis in zip(TUMOUR_SYSTEMS, axes, strict=True):
            draw(system, axis)
            axis.set(title=system, facecolor=colour)
        figure.tight_layout()
        drawn = io.BytesIO()
        figure.savefig(drawn, facecolor=colour)
        pyplot.close(figure)
    return Image.open(drawn).convert("RGB")


def tumour_losses(work: Path) -> Image.Image:
    """The adversarial losses of the three systems of report 5 over their steps."""

    def draw(system: str, axis) -> None:
        log = trained(f"tumour-{system.lower()}", work) / "log.jsonl"
        entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        entries = [entry for entry in entries if "losses" in entry]
        steps = [entry["step"] for entry in entries]
        for role in ("generator", "discriminator"):
            totals = [
                sum(x for name, x in entry["losses"].items() if _is_adversarial(name, role))
                for entry in entries
            ]
            axis.plot(steps, totals, label=role)
        axis.set(xlabel="step")
        if system == TUMOUR_SYSTEMS[0]:
            axis.set(ylabel="loss")
            axis.legend()

    return draw_panels(3, draw)


def tumour_bars(work: Path) -> Image.Image:
    """KID of DCGAN and ProGAN, PSNR of Pix2Pix, before and after the style step: as recorded."""
    records = json.loads((ROOT / "benchmarks/results/published-systems.json").read_text("utf-8"))
    scores = {record["recipe"]: record["scores"] for record in records}

    def draw(system: str, axis) -> None:
        of_system = scores[f"{system.lower()}_tumour_style"]
        metric = "psnr" if system == "Pix2Pix" else "kid_random"
        values = [row[metric]["value"] for row in of_system.values()]
        bars = axis.bar(("before", "after the style step"), values, color=("#8dd3c7", "#feffb3"))
        axis.bar_label(bars, fmt="%.2f")
        axis.margins(y=0.15)
        better = "PSNR, dB (higher is better)" if metric == "psnr" else "KID (lower is better)"
        axis.set(ylabel=better)

    return draw_panels(2.6, draw)


def _is_adversarial(loss: str, role: str) -> bool:
    phase, _, name = loss.partition("/")
    return phase.startswith(role) and (name.startswith(("adversarial", "d_")))


def draw_rows(rows: list[list[tuple[str, Image.Image]]], side: int) -> Image.Image:
    """Pictures in rows, all `side` pixels high, each with its title above; a title that repeats is
    written once.
    """
    font = ImageFont.load_default(14)
    cell = max(round(side * each.width / each.height) for row in rows for _, each in row)
    columns = max(len(row) for row in rows)
    size = GAP + columns * (cell + GAP), GAP + len(rows) * (side + TITLE + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = GAP + line * (side + TITLE + GAP)
        written = ""
        for column, (title, picture) in enumerate(row):
            left = GAP + column * (cell + GAP)
            if title != written:
                draw.text((left, top), title, fill=INK, font=font)
            written = title
            width = round(side * picture.width / picture.height)
            large = picture.convert("RGB").resize((width, side), Image.Resampling.BICUBIC)
            sheet.paste(large, (left, top + TITLE))
    return sheet


def _decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


# ---- pages


@contextmanager
def browser(url: str) -> Iterator:
    """A page of a headless Chromium."""
    from browser import BROWSER, Browser

    if BROWSER is None:
        raise SystemExit("Pictures of pages need Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Browser(Path(folder), url) as page,
    ):
        yield page


def capture(page, width: int, height: int) -> Image.Image:
    """The first `height` pixels of the page in light colours, at this width."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page("Emulation.setDeviceMetricsOverride", **size)
    page.js(
        "document.head.append(Object.assign(document.createElement('style'),"
        " { textContent: '::-webkit-scrollbar { display: none }' }))"
    )
    light = [{"name": "prefers-color-scheme", "value": "light"}]
    page("Emulation.setEmulatedMedia", features=light)
    time.sleep(1)
    found = page("Page.captureScreenshot", format="png")
    return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")


def report_top(run: Path, width: int, height: int) -> Image.Image:
    """The first screen of a run's report: the sentence and a typical image."""
    gantk(run.parent, "report", run.name)
    with browser((run / "report.html").as_uri()) as page:
        return capture(page, width, height)


def report(work: Path) -> Image.Image:
    """The top of a report whose model is better than every baseline."""
    return report_top(trained("dualgan", work), 820, 742)


def failure(work: Path) -> Image.Image:
    """The top of a report whose model is not better than a simple rule."""
    return report_top(trained("failure", work), 1000, 680)


def app(work: Path) -> Image.Image:
    """The window of `gantk app` with a synthetic head, translated by the shipped model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    arguments, environment = command("app", "t1t2", "--port", str(port), "--device", "cpu")
    server = subprocess.Popen(arguments, cwd=work, env=environment)
    try:
        _wait_for(port)
        with browser(f"http://127.0.0.1:{port}/") as page:
            page.until("document.querySelector('#scan input[type=file]')")
            page.until("document.querySelector('#example .gallery-item')")
            page.js("document.querySelector('#example .gallery-item').click()")
            page.until("document.querySelector('#go:not([disabled])')")
            page.js("document.querySelector('#go').click()")
            page.until("document.querySelector('#viewer[data-ready]')")
            return capture(page, 1280, 980)
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    """Wait until something listens on the port, for two minutes at most."""
    for _ in range(240):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit("gantk app did not start")


def reader_study(work: Path) -> Image.Image:
    """The page of a reader: which of two images is real?"""
    run = trained("dualgan", work)
    study = work / "study"
    if not (study / "key.csv").is_file():
        shutil.rmtree(study, ignore_errors=True)
        words = ("--pairs", "8", "--out", study.name)
        gantk(work, "study", "new", run.name, *words)

    with browser((study / "page.html").as_uri()) as page:
        page.js("document.getElementById('reader').value = 'one'")
        page.js("[...document.querySelectorAll('button')].find((b) => b.offsetParent)?.click()")
        return capture(page, 800, 560)


def plan(work: Path) -> Image.Image:
    """The first lines of a recipe that `gantk plan` wrote for a folder of scans."""
    recipe = work / "recipe.toml"
    if not recipe.is_file():
        _write_scans(work / "scans")
        gantk(work, "plan", "scans", "--hours", "0.5", "--out", recipe.name, "--device", "cpu")

    text = recipe.read_text("utf-8").replace(f"{work}/", "")
    lines = text.splitlines()[:PLAN_LINES]
    shown = []
    for line in lines:
        setting, mark, comment = line.partition("#")
        shown.append(f"{html.escape(setting)}<i>{html.escape(mark + comment)}</i>")

    page_file = work / "plan.html"
    style = (
        "body{margin:0;padding:20px 24px;background:#faf9f6;color:#1f2328;"
        "font:13px/1.5 DejaVu Sans Mono,monospace;white-space:pre-wrap}"
        "i{color:#26734a;font-style:normal}"
    )
    code = "\n".join(shown)
    page_file.write_text(
        f"<!doctype html><meta charset=utf-8><style>{style}</style>{code}", "utf-8"
    )
    with browser(page_file.as_uri()) as page:
        sheet = capture(page, 1000, PLAN_HEIGHT)
        height = page.js("document.body.getBoundingClientRect().height")
        return sheet.crop((0, 0, 1000, min(int(height), PLAN_HEIGHT)))


def _write_scans(
    folder: Path,
    subjects: int = 8,
    size: tuple[int, int, int] = (24, 64, 64),
    spacing: tuple[float, float, float] = (6.0, 3.0, 3.0),
) -> None:
    """Write synthetic heads of patients as PATIENT/T1.nii.gz and PATIENT/T2.nii.gz, of this size and
    spacing (mm) of slices, rows and columns.
    """
    import nibabel
    import numpy as np

    from gantk_datasets.phantom.phantom import Phantom

    heads = Phantom(("T1", "T2"), 3, size, subjects=subjects)
    for record in heads.records():
        contrast = "T2" if record.domain == "b" else "T1"
        path = folder / record.subject / f"{contrast}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
        nibabel.save(nibabel.Nifti1Image(record.read()[0].T, affine), path)


ORTHANC = "http://127.0.0.1:4253"  # of docs/guides/hospital-network.md


def orthanc(work: Path) -> Image.Image:
    """Orthanc's page of the study of the guide, above the derived series in its viewer."""
    folder = work / "orthanc"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write_series(folder / "export" / "ST0000" / "SE0000")
    guide = (ROOT / "docs/guides/hospital-network.md").read_text("utf-8")
    for name, text in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', guide, re.M | re.S):
        (folder / name).write_text(text, "utf-8")
    start = next(text for text in re.findall(r"^```bash\n(.*?)^```$", guide, re.M | re.S))

    program, environment = command()
    entry = f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n'
    (folder / "gantk").write_text(entry, "utf-8")
    (folder / "gantk").chmod(0o755)
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    try:
        subprocess.run(["bash", "-euc", start], cwd=folder, env=environment, check=True)
        (study,) = _of_orthanc("/studies")
        with browser(f"{ORTHANC}/app/explorer.html#study?uuid={study}") as page:
            page.until("document.body.innerText.includes('synthetic')")
            sheet = capture(page, 1000, 330)

        (made,) = [
            each
            for each in _of_orthanc("/series?expand")
            if each["MainDicomTags"]["SeriesDescription"].endswith("(gantk)")
        ]
        view = _view(made)
        whole = Image.new("RGB", (sheet.width, sheet.height + view.height), BACKGROUND)
        whole.paste(sheet, (0, 0))
        whole.paste(view, (0, sheet.height))
        return whole
    finally:
        for file in folder.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)


def _view(series: dict) -> Image.Image:
    """The middle slice of a series in Orthanc's viewer."""
    with browser(f"{ORTHANC}/web-viewer/app/viewer.html?series={series['ID']}") as page:
        page.until("document.querySelector('canvas')")
        time.sleep(3)  # the viewer draws when all slices are there
        for _ in range(len(series["Instances"]) // 2):
            page.js(
                "document.querySelector('#dicomImage').dispatchEvent("
                "Object.assign(new Event('mousewheel'), { wheelDelta: -120 }))"
            )
            time.sleep(0.2)
        return capture(page, 1000, 290)


def _of_orthanc(path: str):
    with urllib.request.urlopen(f"{ORTHANC}{path}") as answer:
        return json.load(answer)


def _write_series(folder: Path) -> None:
    """Write the T1 of a synthetic head as a DICOM series."""
    import numpy as np
    from dicom_files import series

    from gantk_datasets.phantom.phantom import Phantom

    heads = Phantom(("T1", "T2"), 3, (24, 192, 192), subjects=1)
    volume = next(record.read()[0] for record in heads.records() if record.domain == "a")
    about = {"SeriesDescription": "T1 tse ax", "PatientName": "Phantom^Head"}
    about |= {"StudyInstanceUID": "1.2.0", "SeriesInstanceUID": "1.2.0.0"}
    series(folder, volume.clip(0).astype(np.int16), **about, FrameOfReferenceUID="1.2.0.9")


# ---- all of them

PICTURES: dict[str, Callable[[Path], Image.Image]] = {
    name: (lambda work, name=name: strip(name, work))
    for name in TRAININGS
    if name not in ("failure", "ct-plain") and not name.startswith("tumour-")
} | {
    "ct-generated": generated_and_real,
    "tumours": tumours,
    "tumour-losses": tumour_losses,
    "tumour-bars": tumour_bars,
    "report": report,
    "failure": failure,
    "app": app,
    "reader-study": reader_study,
    "plan": plan,
    "orthanc": orthanc,
}


def save(name: str, picture: Image.Image) -> Path:
    """Write a picture as a small PNG; SystemExit where it is too large."""
    path = OUT / f"{name}.png"
    for colours in COLOURS:
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        total = sum(each.stat().st_size for each in OUT.iterdir())
        if size <= MAX_PICTURE_BYTES and total <= MAX_TOTAL_BYTES:
            return path

    raise SystemExit(f"{path} has {size:,} bytes, all pictures have {total:,}: too many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "gantk-pictures")
    given = parser.parse_args()
    unknown = set(given.names) - set(PICTURES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Pictures: {', '.join(PICTURES)}")

    given.work.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(exist_ok=True)
    missing = [name for name in PICTURES if not (OUT / f"{name}.png").is_file()]
    for name in given.names or missing:
        print(save(name, PICTURES[name](given.work)), flush=True)


if __name__ == "__main__":
    main()
