"""The report: one file that opens offline, says what is missing, and executes nothing that the run folder holds."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.errors import UserError
from gantk.report import pictures, write_animation, write_report
from gantk.report.charts import chart, nice_ticks
from gantk.report.pictures import ERROR_CEILING, error_map, evenly
from gantk.report.run_record import read_run
from gantk.report.words import duration, metric_name, number

RECIPE = """\
format = 1
summary = "Brain MR, T1 <-> T2, unpaired."  # a comment

[method]
name = "dualgan"
cycle = 10.0

[data]
domains = ["T1", "T2"]

[train]
steps = 40
"""
TRANSLATION = {"a_to_b": {"from": "T1", "to": "T2", "count": 2}, "b_to_a": {"from": "T2", "to": "T1", "count": 2}}
NOISE = {"image": {"from": None, "to": "T1", "count": 3}}
STEPS = (0, 20, 40)


def score(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.5, value + 0.5], "n": 10, "images": 40, "unit": "dB",
            "definition": "psnr/fixed-range", "higher_is_better": True, "corrected": value + 1}  # fmt: skip


def scored(better: bool = True, probability: float = 1.0) -> dict:
    """metrics.json of a run whose T2 -> T1 is better, or is not, than the intensity map."""
    verdict = {"better": True, "best_baseline": "identity", "probability": 1.0}
    return {
        "metrics": {"a_to_b": {"psnr": score(24.31)}, "b_to_a": {"psnr": score(21.02)}},
        "baselines": {"identity": {"a_to_b": {"psnr": score(18.5)}, "b_to_a": {"psnr": score(21.6)}}},
        "verdict": {
            "a_to_b": {"psnr": verdict},
            "b_to_a": {"psnr": verdict | {"better": better, "probability": probability}},
        },
        "speed": {"images_per_s": 31.0, "seconds": 240.3, "steps": 40},
        "domains": ["T1", "T2"],
    }


def log_lines(steps: int = 40) -> list[dict]:
    lines: list[dict] = []
    for step in range(1, steps + 1):
        losses = {"generators/cycle_a": 5 / step, "generators/adversarial_a": 0.4, "discriminators/d_a": 0.2}
        lines.append({"step": step, "epoch": 1, "stage": "main", "seconds": step / 10, "images_per_s": 31.0, "lr": 2e-4,
                      "losses": losses})  # fmt: skip
        if step % 20 == 0:
            lines.append({"step": step, "validation": {"a_to_b": {"psnr": 20 + step / 10}, "b_to_a": {"psnr": 19.0}}})
    return [*lines, {"step": steps, "alarm": "no-change", "message": "the output is the input"}]


def make_run(
    folder: Path,
    *,
    recipe: str | None = RECIPE,
    directions: dict | None = None,
    truth: bool = True,
    steps: tuple[int, ...] = STEPS,
    metrics: dict | None = None,
    log: list[dict] | None = None,
    side: int = 16,
) -> Path:
    """A run folder with random pictures and made-up numbers."""
    directions = TRANSLATION if directions is None else directions
    random = np.random.default_rng(0)

    def picture(name: str) -> None:
        path = folder / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8)).save(path)

    for key, direction in directions.items():
        for i in range(direction["count"]):
            for group in ("input", *(("truth",) if truth else ())) if direction["from"] else ():
                picture(f"{group}/{key}-{i}.png")
            for step in steps:
                picture(f"step-{step:06d}/{key}-{i}.png")
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, content: (folder / name).write_text(content, encoding="utf-8")  # noqa: E731
    if directions:
        write("samples/index.json", json.dumps({"directions": directions, "steps": steps, "has_truth": truth}))
    if recipe is not None:
        write("recipe.toml", recipe)
    if metrics is not None:
        write("metrics.json", json.dumps(metrics))
    write(
        "environment.json", json.dumps({"gantk": "0.1.0", "device": "cpu", "packages": {"numpy": "2.0"}, "git": None})
    )
    records = [{"domain": d, "key": f"{s}/{d}", "subject": s} for d in "ab" for s in ("anna", "ben")]
    write("split.json", json.dumps({"how": "by patient", "splits": {"by": "patient", "train": records, "test": []}}))
    write("log.jsonl", "".join(json.dumps(line) + "\n" for line in (log_lines() if log is None else log)))
    return folder


class Page(HTMLParser):
    """A page taken apart: every tag with its attributes, scripts and styles, and the words that a reader sees."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "": []}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, text):
        self.texts[self.inside[-1] if self.inside else ""].append(text)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts[""]).replace("\u00a0", " ").split())

    @property
    def data(self) -> dict:
        def refuse(name):
            raise AssertionError(f"{name} is not JSON that a browser reads")

        return json.loads(self.texts["script"][0], parse_constant=refuse)

    def having(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def report(run: Path) -> Page:
    return Page(write_report(run))


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored()))
    references = [
        value for name in ("src", "href", "srcset", "poster", "action", "data") for value in page.having(name)
    ]
    assert len(references) >= 19
    assert all(value.startswith(("data:", "#")) for value in references)
    assert not re.findall(r"url\(|@import|https?:|fetch\(|XMLHttpRequest|import\(", page.source)


def test_the_page_refuses_every_script_but_its_own(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored()))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_nothing_in_the_run_can_execute(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    directions = {"a_to_b": {"from": evil, "to": f'"{evil}', "count": 1}}
    log = [{"step": 1, "losses": {f"{evil}/{evil}": 1.0}}, {"step": 1, "alarm": evil, "message": evil}]
    metrics = scored() | {"baselines": {evil: {"a_to_b": {"psnr": score(1) | {"definition": evil}}}}}
    recipe = f"summary = {json.dumps(evil)}\n[method]\nname = {json.dumps(evil)}\n"
    run = make_run(tmp_path / "run", recipe=recipe, directions=directions, log=log, metrics=metrics)
    (run / "environment.json").write_text(json.dumps({evil: evil, "packages": {evil: evil}}))
    page = report(run)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert evil in page.words and page.data["charts"][0]["names"] == ["script><img src=x onerror=alert(1)>"]


def test_every_saved_step_of_every_direction_can_be_scrubbed_to(tmp_path):
    page = report(make_run(tmp_path / "run"))
    assert page.data["steps"] == list(STEPS)
    for key in TRANSLATION:
        frames = page.data["frames"][key]
        assert [frame and len(frame) for frame in frames["output"]] == [2, 2, None]  # the last are in the page itself
        assert [frame and len(frame) for frame in frames["error"]] == [2, 2, None]
    shown = [a["src"] for tag, a in page.tags if tag == "img" and a.get("data-key") == "a_to_b"]
    first = (tmp_path / "run/samples/step-000040/a_to_b-0.png").read_bytes()
    assert f"data:image/png;base64,{base64.b64encode(first).decode()}" in shown
    assert page.data["scores"]["a_to_b"] == ["", "validation at this step: PSNR 22", "validation at this step: PSNR 24"]


def test_every_picture_has_words_for_those_who_cannot_see_it(tmp_path):
    page = report(make_run(tmp_path / "run"))
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert "Sample 1, input T1" in page.having("alt")


def test_a_model_that_beats_the_baselines_is_said_to(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored()))
    assert "The model beats the best baseline in both directions." in page.words
    assert "headline good" in page.having("class")
    assert "24.31 dB 95% interval 23.81 to 24.81 better than 18.50 dB, identity" in page.words


def test_a_model_that_does_not_beat_them_is_said_to_in_red(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored(better=False)))
    assert "The model does not beat the best baseline on PSNR for T2 → T1." in page.words
    assert "headline bad" in page.having("class")
    assert "not better than 21.60 dB, identity" in page.words


def test_a_lead_within_chance_is_not_called_a_win(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored(probability=0.71)))
    assert "The model beats the best baseline, within chance on PSNR for T2 → T1." in page.words
    assert "(in 71% of the draws)" in page.words


def test_baselines_stand_beside_the_model_with_definition_and_n(tmp_path):
    page = report(make_run(tmp_path / "run", metrics=scored()))
    assert "model 24.31 23.81 to 24.81 25.31 identity 18.50 18.00 to 19.00 19.50" in page.words
    assert "n = 10 (40 images) · psnr/fixed-range" in page.words


def test_infinite_and_absent_scores_are_shown_as_such(tmp_path):
    metrics = scored()
    metrics["metrics"]["a_to_b"]["psnr"] |= {"value": math.inf, "ci95": None}
    metrics["metrics"]["b_to_a"]["psnr"] |= {"value": None, "ci95": None, "corrected": None}
    page = report(make_run(tmp_path / "run", metrics=metrics))
    assert "model ∞ 25.31" in page.words


def test_a_loss_to_a_baseline_that_was_fitted_on_pairs_says_what_holds_without_pairs(tmp_path):
    metrics = scored(better=False, probability=0.02)
    fair = {"better": True, "best_baseline": "identity", "probability": 0.99}
    metrics["verdict"]["b_to_a"]["psnr"] |= {"best_baseline": "regression", "without_pairs": fair}
    metrics["baselines"]["regression"] = {"b_to_a": {"psnr": score(23.9)}}
    page = report(make_run(tmp_path / "run", metrics=metrics))
    words = "does not beat the best baseline on PSNR for T2 → T1; it beats the best of those that needed no pairs."
    assert words in page.words and "headline bad" in page.having("class")
    assert "not better than 23.90 dB, L1 U-Net regression without pairs: better than 21.60 dB, identity" in page.words
    assert "unpaired good" in page.having("class")


def test_what_was_beaten_with_pairs_is_not_told_again_without(tmp_path):
    metrics = scored()
    verdict = metrics["verdict"]["a_to_b"]["psnr"]
    verdict |= {"best_baseline": "regression", "without_pairs": dict(verdict)}
    assert "without pairs:" not in report(make_run(tmp_path / "run", metrics=metrics)).words


def test_many_scores_are_counted_instead_of_listed(tmp_path):
    metrics, lost = scored(), {"better": False, "best_baseline": "identity", "probability": 0.0}
    for name in ("ssim", "mae", "nrmse", "lpips", "psnr_foreground"):
        metrics["metrics"]["a_to_b"][name] = score(1.0)
        metrics["verdict"]["a_to_b"][name] = lost
    words = report(make_run(tmp_path / "run", metrics=metrics)).words
    assert "The model does not beat the best baseline on 5 of 6 scores for T1 → T2." in words


def test_regions_have_cards_of_their_own_and_are_folded_in_the_verdict(tmp_path):
    metrics = scored()
    for name in ("psnr_foreground", "ms_ssim_lesion", "kid_random"):
        metrics["metrics"]["a_to_b"][name] = score(20.0)
    page = report(make_run(tmp_path / "run", metrics=metrics))
    assert re.search("Whole image PSNR .* Foreground PSNR foreground .* Lesion MS-SSIM lesion", page.words)
    assert "Sets of images KID random" in page.words
    assert "foreground: 0 of 1 better than the best baseline" in page.words


def test_a_run_with_one_kind_of_score_needs_no_headings(tmp_path):
    assert "Whole image" not in report(make_run(tmp_path / "run", metrics=scored())).words


def test_a_score_is_told_per_slice_and_volume_and_in_the_units_of_the_images(tmp_path):
    metrics = scored()
    metrics["metrics"]["a_to_b"]["psnr"] |= {
        "per": {"slice": {"value": 24.1, "ci95": [23.9, 24.3], "n": 96},
                "volume": {"value": 23.8, "ci95": None, "n": 8, "how": "pooled-over-slices"}},
        "in_units": {"value": 61.2, "ci95": [58.0, 64.0], "unit": "HU", "definition": "mae/hounsfield-intensities"},
    }  # fmt: skip
    page = report(make_run(tmp_path / "run", metrics=metrics))
    assert "per slice 24.10 23.90 to 24.30 n = 96 per volume 23.80 n = 8 in HU 61.20 58.00 to 64.00" in page.words
    assert {"pooled over slices", "mae/hounsfield-intensities"} <= set(page.having("title"))


def test_precision_recall_density_and_coverage_share_one_card(tmp_path):
    metrics = scored()
    for name, value in {"precision": 0.8, "recall": 0.7, "density": 0.9, "coverage": 0.6}.items():
        metrics["metrics"]["a_to_b"][f"{name}_random"] = score(value) | {"unit": "", "ci95": None}
        metrics["baselines"]["identity"]["a_to_b"][f"{name}_random"] = score(0.1) | {"unit": "", "ci95": None}
    words = report(make_run(tmp_path / "run", metrics=metrics)).words
    assert "Nearest neighbours, random higher is better scored Precision Recall Density Coverage" in words
    assert "model 0.800 0.700 0.900 0.600 identity 0.100 0.100 0.100 0.100" in words


def selected() -> tuple[list[dict], dict]:
    """Log lines of three judged saves, and the best.json that follows from them."""
    entries = [
        {"step": step, "a_to_b": {"kid_random": kid, "structure": 0.3}, "score": kid} | more
        for step, kid, more in (
            (10, 0.2, {"barred": "a_to_b: the outputs are all alike"}),
            (20, 0.3, {}),
            (40, 0.4, {}),
        )
    ]
    log = [{"step": e["step"], "selection": {k: v for k, v in e.items() if k != "step"}} for e in entries]
    return log, {"step": 20, "rule": "nearest to ideal", "higher_is_better": False, "table": entries}


def test_the_choice_of_the_checkpoint_is_drawn_marked_and_explained(tmp_path):
    log, best = selected()
    run = make_run(tmp_path / "run", log=[*log_lines(), *log])
    (run / "best.json").write_text(json.dumps(best))
    page = report(run)
    assert "Step 20 was chosen: nearest to ideal" in page.words and "Best checkpoint step 20 of 40" in page.words
    names = [chart["names"] for chart in page.data["charts"]]
    assert ["score"] in [[name.lower() for name in each] for each in names]
    assert page.having("title").count("chosen checkpoint, step 20") >= 3
    assert "Step Score T1 → T2 KID random T1 → T2 Structure Barred" in page.words
    assert "10 0.2 0.2 0.3 a_to_b: the outputs are all alike" in page.words


def test_a_choice_among_bad_checkpoints_is_no_praise(tmp_path):
    _, best = selected()
    run = make_run(tmp_path / "run")
    (run / "best.json").write_text(json.dumps(best | {"step": 10}))
    assert "even the chosen one was barred (a_to_b: the outputs are all alike)" in report(run).words


def test_an_unreadable_choice_is_named_and_nothing_is_claimed(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "best.json").write_text("[1, 2]")
    page = report(run)
    assert "best.json could not be read" in page.words and "was chosen" not in page.words


def test_speed_is_told_with_its_spread(tmp_path):
    metrics = scored()
    metrics["speed"] |= {"step_seconds": [0.02, 0.025, 0.04], "first_step_s": 6.4, "peak_memory_gib": 1.31,
                         "energy_j": 48210.0}  # fmt: skip
    words = report(make_run(tmp_path / "run", metrics=metrics)).words
    assert "Step time 25 ms (20 ms to 40 ms) First step after 6.4 s Peak memory 1.31 GiB Energy 48.2 kJ" in words


def test_figures_that_were_not_measured_are_left_out(tmp_path):
    metrics = scored()
    metrics["speed"] |= {"step_seconds": [], "first_step_s": None, "peak_memory_gib": None, "energy_j": None}
    words = report(make_run(tmp_path / "run", metrics=metrics)).words
    assert not re.search("Step time|First step|Peak memory|Energy", words)


def test_the_rejection_curve_of_an_uncertainty_is_drawn(tmp_path):
    curve = {"kept": [1.0, 0.95, 0.9], "error": [0.06, 0.05, 0.04], "oracle": [0.06, 0.04, 0.03], "random": [0.06] * 3}
    judged = {"kind": "flips", "auroc": score(0.83), "rejection": curve}
    page = report(make_run(tmp_path / "run", metrics=scored() | {"uncertainty": {"a_to_b": judged}}))
    (drawn,) = [c for c in page.data["charts"] if c["x"] == "{} % set aside"]
    assert drawn["steps"] == [0, 5, 10] and drawn["values"][0] == curve["error"]
    assert drawn["names"] == ["by uncertainty", "by error itself", "at random"]
    assert "Error that is left" in page.words and "Uncertainty against error" in page.words


def test_series_measured_at_different_places_are_read_off_between_their_points():
    drawn = chart("x", {"a": {0: 0.0, 4: 4.0}, "b": {2: 5.0}}, joined=True)
    assert [curve.values for curve in drawn.curves] == [(0.0, 2.0, 4.0), (None, 5.0, None)]


def test_names_of_metrics_read_as_the_field_writes_them():
    names = {"ms_ssim_lesion": "MS-SSIM lesion", "kid_random": "KID random", "lesion_contrast": "Lesion contrast"}
    assert {name: metric_name(name) for name in names} == names


def test_an_interrupted_run_says_that_it_has_no_metrics(tmp_path):
    page = report(make_run(tmp_path / "run", log=log_lines(20), steps=(0, 20)))
    assert "No metrics: the run stopped at step 20 of 40." in page.words
    assert "gantk resume" in page.words
    assert not [value for value in page.having("id") if value == "metrics"]


def test_a_run_without_truth_has_no_error_maps_and_says_so(tmp_path):
    page = report(make_run(tmp_path / "run", truth=False))
    assert "No error maps: these samples have no registered truth to compare with." in page.words
    assert "error" not in page.having("data-kind")


def test_a_noise_to_image_run_shows_a_wall_of_samples(tmp_path):
    page = report(make_run(tmp_path / "run", directions=NOISE, truth=False))
    assert "T1 from noise" in page.words
    assert page.having("data-key") == ["image"] * 3
    assert "gantk sample" in page.words and "gantk translate" not in page.words


def test_a_run_that_has_hardly_begun_gives_a_page_that_lists_what_is_missing(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(RECIPE)
    words = report(run).words
    assert "No metrics: training has not reached its first log point." in words
    assert "No sample pictures" in words and "No loss curves" in words and "No validation curve" in words


def test_an_unreadable_file_is_named_and_the_rest_is_shown(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.json").write_text("{ half")
    (run / "samples/step-000000/a_to_b-0.png").unlink()
    page = report(run)
    assert "metrics.json could not be read" in page.words
    assert page.data["frames"]["a_to_b"]["output"][0][0] == ""


def test_a_folder_that_is_no_run_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"is not a run folder.*Give the folder that `gantk run` printed"):
        write_report(tmp_path)


def test_a_half_written_last_line_and_a_number_that_is_none_do_not_spoil_the_curves(tmp_path):
    log = [
        {"step": 1, "losses": {"g/x": 1.0}},
        {"step": 2, "losses": {"g/x": math.nan}},
        {"step": 3, "losses": {"g/x": 2}},
    ]
    run = make_run(tmp_path / "run", log=log)
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 4, "los')
    assert report(run).data["charts"][0]["values"] == [[1.0, None, 2.0]]


def test_a_resumed_run_shows_what_was_logged_last(tmp_path):
    log = [{"step": step, "losses": {"g/x": value}} for step, value in ((1, 1.0), (2, 9.0), (2, 2.0), (3, 3.0))]
    assert read_run(make_run(tmp_path / "run", log=log)).log.losses == {"g": {"x": {1: 1.0, 2: 2.0, 3: 3.0}}}


def test_split_and_its_leak_are_told(tmp_path):
    run = make_run(tmp_path / "run")
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"leakage_allowed": "anna is on both sides"}))
    words = report(run).words
    assert "train 2 2 2" in words and "by patient" in words
    assert "The split leaks" in words and "anna is on both sides" in words


def test_the_recipe_is_shown_to_the_letter(tmp_path):
    page = report(make_run(tmp_path / "run"))
    shown = re.search(r'<pre tabindex="0"><code>(.*?)</code></pre>', page.source, re.DOTALL).group(1)
    assert unescape(shown) == RECIPE


def test_a_large_run_is_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LOSSLESS_BUDGET", 10_000)
    monkeypatch.setattr(pictures, "PREVIEW_BUDGET", 12_000)
    steps = tuple(range(0, 400, 20))
    page = report(make_run(tmp_path / "run", steps=steps, side=24))
    kept = page.data["steps"]
    assert 2 <= len(kept) < len(steps) and (kept[0], kept[-1]) == (0, 380)
    assert f"{len(kept)} of 20 saved steps are shown" in page.words
    assert page.data["frames"]["a_to_b"]["output"][0][0].startswith("data:image/webp")
    assert all(uri.startswith("data:image/png") for uri in page.having("src"))  # what opens first is lossless


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    before = write_report(run).read_bytes()

    def full(fd):
        raise OSError("no space left")

    monkeypatch.setattr("gantk.files.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert [path.name for path in run.iterdir() if path.name.endswith(".tmp")] == []


def test_error_maps_share_one_fixed_scale():
    truth = Image.fromarray(np.zeros((2, 2), np.uint8))
    output = Image.fromarray(np.array([[0, 32], [ERROR_CEILING, 255]], np.uint8))
    picture, mean = error_map(output, truth)
    assert np.array(picture).tolist() == [[0, 128], [255, 255]]
    assert mean == pytest.approx((32 + ERROR_CEILING + 255) / 4)
    assert picture.convert("RGB").getpixel((0, 0)) < picture.convert("RGB").getpixel((1, 1))


def test_curves_of_a_long_run_are_averaged_in_bins():
    drawn = chart("x", {"loss": {step: float(step % 2) for step in range(1200)}})
    assert drawn.bin == 3 and len(drawn.steps) == 400
    assert set(drawn.curves[0].values) == {0.33333, 0.66667}


def test_a_logarithmic_axis_is_offered_only_where_all_is_positive():
    assert chart("x", {"a": {0: 1.0, 1: 0.1}}, allow_log=True).axes.keys() == {"linear", "log"}
    assert chart("x", {"a": {0: 1.0, 1: -0.1}}, allow_log=True).axes.keys() == {"linear"}
    assert chart("x", {"a": {0: math.nan}}) is None


def test_ticks_are_round_numbers():
    assert nice_ticks(0, 2400, 5) == [0, 500, 1000, 1500, 2000]
    assert nice_ticks(0.13, 0.29, 4) == pytest.approx([0.15, 0.2, 0.25])
    assert number(-0.000123) == "−0.000123" and number(math.nan) == "–"


def test_durations_read_well():
    assert [duration(s) for s in (12, 252, 11100, 187200)] == ["12 s", "4 min 12 s", "3 h 05 min", "2 d 04 h"]


def test_thinning_keeps_both_ends():
    assert evenly(range(11), 3) == [0, 5, 10] and evenly(range(3), 9) == [0, 1, 2] and evenly(range(9), 1) == [0, 8]


def test_the_animation_has_one_frame_a_step_and_tiles_one_can_see(tmp_path):
    path = write_animation(make_run(tmp_path / "run"))
    with Image.open(path) as film:
        assert film.n_frames == len(STEPS)
        assert film.width > 6 * 192 and film.height > 2 * 192
        assert film.info["loop"] == 0


def test_the_animation_of_noise_is_a_square_of_samples(tmp_path):
    with Image.open(write_animation(make_run(tmp_path / "run", directions=NOISE, truth=False))) as film:
        assert film.n_frames == len(STEPS) and 2 * 192 < film.width < 3 * 192


def test_an_animation_too_large_is_made_smaller(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", side=64)
    whole = write_animation(run).stat().st_size
    monkeypatch.setattr("gantk.report.pictures.MOST_BYTES", whole - 1)
    assert write_animation(run).stat().st_size < whole


def test_there_is_no_animation_without_samples(tmp_path):
    assert write_animation(make_run(tmp_path / "run", directions={})) is None


def test_the_page_never_writes_outside_the_run_folder(tmp_path):
    run = make_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert write_report(run) == run / "report.html"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run / "report.html"} and all(after[p] == before[p] for p in before)
