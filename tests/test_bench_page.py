"""bench.html and the Markdown table: every row is there, whatever became of it, and nothing of it can execute."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk_bench import gallery
from gantk_bench.comparison import BETTER, NEW, NO_CHANGE, REGRESSION, Change
from gantk_bench.markdown import table
from gantk_bench.page import write_page
from gantk_bench.systems import systems

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>|`\" '"


def score(value: float | None, *, unit: str = "dB", higher: bool | None = True) -> dict:
    interval = None if value is None else [value - 0.5, value + 0.5]
    return {"value": value, "ci95": interval, "n": 8, "images": 32, "unit": unit,
            "definition": "psnr/fixed-range-2" if unit else "ssim/fixed-range-2", "higher_is_better": higher,
            "corrected": None}  # fmt: skip


def judged(better: bool, best: str = "identity", probability: float | None = 1.0, **more) -> dict:
    return {"better": better, "best_baseline": best, "probability": probability, **more}


def translation(recipe: str = "dualgan_t1t2", seed: int = 0, psnr: float = 24.31, **more) -> dict:
    """A good row of a method that translates both ways; T1 -> T2 beats its baselines, T2 -> T1 does not."""
    directions = ("a_to_b", "b_to_a")
    fair = judged(True, "identity", 0.99)
    return {
        "format": 1, "suite": "quick", "recipe": recipe, "label": recipe, "summary": "Brain MR.", "profile": "cpu",
        "settings": ["train.steps=200"], "grid": {}, "seed": seed, "status": "ok", "error": None,
        "started": "2026-11-20T14:03:00", "wall_s": 131.5, "run": f"runs/{recipe}-{seed}", "method": "dualgan",
        "domains": ["T1", "T2"], "paired": False,
        "metrics": {d: {"psnr": score(psnr), "ssim": score(0.861, unit="")} for d in directions},
        "baselines": {
            "identity": {d: {"psnr": score(14.5), "ssim": score(0.29, unit="")} for d in directions},
            "regression": {d: {"psnr": score(23.9), "ssim": score(0.85, unit="")} for d in directions},
        },
        "verdict": {
            "a_to_b": {"psnr": judged(True, "regression", 0.98, without_pairs=fair)},
            "b_to_a": {"psnr": judged(False, "regression", 0.07, without_pairs=fair)},
        },
        "speed": {"images_per_s": 38.3, "seconds": 121.3, "steps": 200, "step_seconds": [0.11, 0.1, 0.12],
                  "first_step_s": 4.2, "peak_memory_gib": 1.25, "energy_j": 12400.0},
        "selection": {"step": 160, "rule": "nearest to ideal", "table": []},
        "published": {"a_to_b": {"psnr": 8.09, "ssim": 0.0}, "b_to_a": {"psnr": 10.91, "ssim": 0.18}},
        "system": "DualGAN (Yi et al. 2017)",
        "curve": [{"step": s, "seconds": s / 2, "scores": {d: {"psnr": 10 + s / 20} for d in directions}}
                  for s in (0, 100, 200)],
        "alarms": [], "machine": {"device": "cpu", "cpu": "AMD EPYC"}, "versions": {"gantk": "0.1.0", "torch": "2.11"},
        "git": {"commit": "d358a63" + "0" * 33, "dirty": False}, "recipe_hash": "ab" * 32, "data_hash": "cd" * 32,
        "jobs": 2, "peer": None,
    } | more  # fmt: skip


def noise(recipe: str = "dcgan_phantom") -> dict:
    kid = {"image": {"kid_random": score(0.124, unit="", higher=False)}}
    rival = {"image": {"kid_random": score(3.866, unit="", higher=False)}}
    return translation(recipe) | {
        "domains": ["FLAIR"], "method": "dcgan", "metrics": kid, "baselines": {"noise": rival, "real_split": kid},
        "verdict": {"image": {"kid_random": judged(True, "noise")}}, "published": {"accuracy": 0.875}, "curve": [],
    }  # fmt: skip


def failed(recipe: str = "progan_tumour", status: str = "failed", error: str | None = "the loss is not finite") -> dict:
    row = translation(recipe)
    return {key: row[key] for key in list(row)[: list(row).index("run")]} | {
        "status": status,
        "error": error,
        "run": None,
    }


def draw_samples(folder: Path, row: dict, *, side: int = 24, count: int = 4) -> None:
    """A run folder with random sample pictures for a row."""
    random, samples = np.random.default_rng(0), folder / row["run"] / "samples"
    names = dict(zip("ab", row["domains"], strict=False))
    known = {key: tuple(names.get(letter) for letter in key.split("_to_")) for key in row["metrics"] if "_to_" in key}
    directions = {key: {"from": pair[0], "to": pair[1], "count": count} for key, pair in known.items()}
    directions = directions or {"image": {"from": None, "to": row["domains"][0], "count": count}}
    for key in directions:
        for part in ("input", "truth", "step-000200"):
            for i in range(count):
                (samples / part).mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 256, (side, side), dtype=np.uint8)
                Image.fromarray(pixels).save(samples / part / f"{key}-{i}.png")
    index = {"directions": directions, "steps": [200], "has_truth": "image" not in directions}
    (samples / "index.json").write_text(json.dumps(index))
    (samples.parent / "log.jsonl").write_text("")


class Page(HTMLParser):
    """A page taken apart: tags, what a reader sees, and the table's cells with what they are sorted by."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict]] = []
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "": []}
        self.heads: list[str] = []
        self.groups: list[list[list[tuple[str, str | None]]]] = []  # group -> line -> cell: text, sort
        self.within = False
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag in ("script", "style"):
            self.inside.append(tag)
        self.within = self.within or found.get("id") == "rows"
        if self.within and tag == "tbody":
            self.groups.append([])
        elif self.within and tag == "tr" and self.groups:
            self.groups[-1].append([])
        elif self.within and tag in ("th", "td"):
            if self.groups:
                self.groups[-1][-1].append(("", found.get("data-sort")))
            else:
                self.heads.append("")

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()
        if tag == "table":
            self.within = False

    def handle_data(self, text):
        self.texts[self.inside[-1] if self.inside else ""].append(text)
        if self.within and self.groups and self.groups[-1] and self.groups[-1][-1]:
            shown, key = self.groups[-1][-1][-1]
            self.groups[-1][-1][-1] = (f"{shown} {text.strip()}".strip(), key)
        elif self.within and self.heads and not self.groups:
            self.heads[-1] += text.strip()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts[""]).replace("\u00a0", " ").split())

    def having(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def column(self, title: str) -> list[tuple[str, str | None]]:
        """The cells of the head lines of all groups under one heading."""
        place = self.heads.index(title)
        return [(text.replace("\u00a0", " "), key) for text, key in (group[0][place] for group in self.groups)]


def bench(folder: Path, rows: list[dict], **options) -> Page:
    return Page(write_page(rows, folder, **options))


def seeded(*values: float) -> list[dict]:
    """A row a seed, labelled as the bench labels them."""
    return [
        translation(seed=seed, psnr=value, label=f"dualgan_t1t2 seed={seed}", grid={"train.seed": seed})
        for seed, value in enumerate(values)
    ]


def test_every_row_and_direction_has_a_line(tmp_path):
    page = bench(tmp_path, [translation(), noise(), failed()])
    lines = [(group[0][0][0].split()[0], group[0][1][0].replace("\u00a0", " ")) for group in page.groups]
    assert lines == [("dualgan_t1t2", "T1 → T2"), ("dualgan_t1t2", "T2 → T1"), ("dcgan_phantom", "FLAIR from noise"),
                     ("progan_tumour", "–")]  # fmt: skip


def test_every_line_has_a_cell_under_every_heading(tmp_path):
    page = bench(tmp_path, [*seeded(24, 25), noise(), failed()])
    assert {len(line) for group in page.groups for line in group} == {len(page.heads)}


def test_a_failed_row_says_why(tmp_path):
    page = bench(tmp_path, [translation(), failed(), failed("cut_t1t2", "out of time", "stopped after 360 s")])
    assert [text for text, _ in page.column("Verdict")][2:] == [
        "failed the loss is not finite", "out of time stopped after 360 s"]  # fmt: skip
    assert "progan_tumour: failed the loss is not finite" in page.words
    assert "1 of 3 finished" in page.words


def test_a_failure_without_a_reason_is_still_told(tmp_path):
    assert "x: killed no reason was recorded" in bench(tmp_path, [failed("x", "killed", None)]).words


def test_the_verdict_is_worded_coloured_and_has_its_probability(tmp_path):
    page = bench(tmp_path, [translation()])
    better, worse = page.column("Verdict")
    assert better[0] == "better (p 0.98)"
    assert worse[0] == "not better (p 0.07) without pairs: better (p 0.99)"
    assert float(better[1]) > float(worse[1])
    classes = [found["class"] for tag, found in page.tags if tag == "td" and found.get("class", "").startswith("said")]
    assert classes[0] == "said good" and "said bad" in classes


def test_a_lead_in_some_metrics_only_is_not_called_a_win(tmp_path):
    row = translation()
    row["verdict"]["a_to_b"]["ssim"] = judged(False)
    assert bench(tmp_path, [row]).column("Verdict")[0][0].startswith("partly better not in SSIM")


def test_regions_and_single_lesions_do_not_decide_the_verdict(tmp_path):
    row = translation()
    row["metrics"]["a_to_b"]["psnr_lesion"] = score(9.0)
    row["verdict"]["a_to_b"]["psnr_lesion"] = judged(False)
    assert bench(tmp_path, [row]).column("Verdict")[0][0] == "better (p 0.98)"


def test_figures_stand_beside_baselines_and_published_ones(tmp_path):
    page = bench(tmp_path, [translation()])
    assert page.column("PSNR (dB)")[0] == ("24.31 23.81 to 24.81", "24.31")
    assert page.column("Best baseline")[0][0] == "23.90 / 0.850 L1 U-Net regression"
    assert page.column("Identity")[0][0] == "14.50 / 0.290"
    assert page.column("Published")[0][0] == "8.09 / 0.00"
    assert page.column("Step time")[0] == ("0.11 s 0.1 s to 0.12 s", "0.11")
    assert page.column("Memory")[0][0] == "1.25 GiB" and page.column("Energy")[0][0] == "12.4 kJ"


def test_seeds_are_one_line_that_opens_into_each(tmp_path):
    page = bench(tmp_path, seeded(24.0, 25.0, 26.0))
    assert len(page.groups) == 2 and [len(group) for group in page.groups] == [4, 4]
    assert page.column("PSNR (dB)")[0] == ("25.00 24.00 to 26.00", "25.0")
    place = page.heads.index("PSNR (dB)")
    assert [line[place][1] for line in page.groups[0][1:]] == ["24.0", "25.0", "26.0"]
    assert page.having("aria-expanded") == ["false", "false"]


def test_a_win_with_some_seeds_is_told_as_such(tmp_path):
    rows = seeded(24.0, 25.0, 26.0)
    rows[1]["verdict"]["a_to_b"]["psnr"] = judged(False, "identity", 0.2)
    assert bench(tmp_path, rows).column("Verdict")[0][0].startswith("better with 2 of 3 seeds")


def test_a_seed_that_failed_is_counted_and_the_others_are_shown(tmp_path):
    rows = seeded(24.0, 26.0)
    lost = failed("dualgan_t1t2") | {"seed": 2, "label": "dualgan_t1t2 seed=2", "grid": {"train.seed": 2}}
    page = bench(tmp_path, [*rows, lost])
    assert page.column("PSNR (dB)")[0][1] == "25.0"
    assert page.column("Status")[0][0] == "failed, 1 of 3 seeds"


def test_rows_of_other_settings_are_not_taken_for_seeds():
    rows = [translation(grid={"method.structure": value}, label=f"dualgan_t1t2 structure={value}") for value in (0, 1)]
    assert [system.name for system in systems(rows)] == ["dualgan_t1t2 structure=0", "dualgan_t1t2 structure=1"]


def test_every_heading_is_a_button_and_numbers_are_sorted_as_numbers(tmp_path):
    rows = [translation(psnr=9.5), translation("b", psnr=10.5), noise(), failed()]
    rows[1]["metrics"]["b_to_a"]["psnr"] = score(math.inf) | {"ci95": None}
    page = bench(tmp_path, rows)
    kinds = [found["data-kind"] for tag, found in page.tags if tag == "th" and "data-kind" in found]
    assert len(kinds) == len(page.heads) and set(kinds) == {"words", "number"}
    for group in page.groups:
        for kind, (_, key) in zip(kinds, group[0], strict=True):
            assert kind == "words" or key is None or math.isfinite(float(key))
    keys = [key for _, key in page.column("PSNR (dB)")]
    assert keys[0] == "9.5" and keys[2] == "10.5" and float(keys[3]) > 1e300 and keys[4] is None


def test_further_metrics_are_a_column_by_choice(tmp_path):
    row = translation()
    for direction in row["metrics"].values():
        direction["lpips"] = score(0.12, unit="", higher=False)
    page = bench(tmp_path, [row])
    place = page.heads.index("LPIPS")
    (box,) = [found for tag, found in page.tags if tag == "input" and found.get("data-column") == str(place)]
    assert "checked" not in box
    head = [found for tag, found in page.tags if tag == "th" and "data-kind" in found][place]
    assert "hidden" in head and page.column("LPIPS")[0][1] == "0.12"


def test_the_main_metric_of_images_from_noise_is_shown_from_the_start(tmp_path):
    page = bench(tmp_path, [translation(), noise()])
    head = [found for tag, found in page.tags if tag == "th" and "data-kind" in found][page.heads.index("KID random")]
    assert "hidden" not in head


def test_nothing_in_a_row_can_execute(tmp_path):
    row = translation(HOSTILE, label=HOSTILE, error=HOSTILE, method=HOSTILE, summary=HOSTILE, system=HOSTILE,
                      domains=[HOSTILE, HOSTILE], settings=[HOSTILE], git={"commit": HOSTILE, "dirty": True},
                      machine={HOSTILE: HOSTILE, "cpu": HOSTILE}, versions={HOSTILE: HOSTILE}, suite=HOSTILE,
                      alarms=[{"step": 1, "alarm": HOSTILE, "message": HOSTILE}], recipe_hash=HOSTILE)  # fmt: skip
    row["metrics"]["a_to_b"][HOSTILE] = score(1.0) | {"definition": HOSTILE, "unit": HOSTILE}
    row["baselines"][HOSTILE] = row["baselines"].pop("identity")
    row["curve"][0]["scores"]["a_to_b"][HOSTILE] = 1.0
    page = bench(tmp_path, [row, failed(HOSTILE, HOSTILE, HOSTILE)], changes=[Change(HOSTILE, HOSTILE, REGRESSION)])
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert not [found for tag, found in page.tags if tag == "img"]
    assert HOSTILE in "".join(page.texts[""])


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    rows = [translation(), noise()]
    for row in rows:
        draw_samples(tmp_path, row)
    page = bench(tmp_path, rows)
    references = [
        value for name in ("src", "href", "srcset", "poster", "action", "data") for value in page.having(name)
    ]
    assert len(references) > 10
    assert all(value.startswith(("data:", "#")) for value in references)
    assert not re.findall(r"url\(|@import|https?:|fetch\(|XMLHttpRequest|import\(", page.source)


def test_the_page_refuses_every_script_but_its_own(tmp_path):
    page = bench(tmp_path, [translation()])
    (policy,) = [found["content"] for _, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_input_output_and_truth_of_each_run_stand_side_by_side(tmp_path):
    rows = [translation(), noise()]
    for row in rows:
        draw_samples(tmp_path, row)
    page = bench(tmp_path, rows)
    alts = page.having("alt")
    assert {"input of sample 1, dualgan_t1t2", "output of sample 1, dualgan_t1t2",
            "truth of sample 1, dualgan_t1t2", "Sample 1 of dcgan_phantom"} <= set(alts)  # fmt: skip
    assert all(uri.startswith("data:image/webp") for uri in page.having("src"))


def test_pictures_outside_the_bench_folder_are_not_read(tmp_path):
    row = translation()
    draw_samples(tmp_path / "elsewhere", row)
    row["run"] = "../elsewhere/" + row["run"]
    assert not bench(tmp_path / "bench", [row]).having("src")


def test_a_broken_picture_leaves_a_gap_and_not_an_error(tmp_path):
    row = translation()
    draw_samples(tmp_path, row)
    (tmp_path / row["run"] / "samples/truth/a_to_b-0.png").write_bytes(b"no picture")
    assert "no file" in bench(tmp_path, [row]).words


def test_pictures_shrink_and_then_go_before_the_page_grows(tmp_path):
    rows = [translation(f"recipe_{i}") for i in range(6)]
    for row in rows:
        draw_samples(tmp_path, row, side=96)
    found = systems(rows)
    whole, none = gallery.gallery(found, tmp_path)
    size = sum(strip.size for strips in whole.values() for strip in strips)
    fewer, left_out = gallery.gallery(found, tmp_path, budget=size // 3)
    assert none == 0 and left_out == 0
    assert sum(strip.size for strips in fewer.values() for strip in strips) <= size // 3
    _, left_out = gallery.gallery(found, tmp_path, budget=10_000)
    assert left_out > 0


def test_quality_over_time_has_a_curve_for_each_recipe(tmp_path):
    page = bench(tmp_path, [translation("one"), translation("two")])
    charts = json.loads(page.texts["script"][0])["charts"]
    assert sorted(charts[0]["names"]) == ["one", "two"]
    assert charts[0]["steps"] == [0, 50, 100] and charts[0]["x"] == "{} s of training"
    assert charts[0]["values"] == [[10.0, 15.0, 20.0]] * 2


def test_curves_measured_at_other_times_are_read_off_between_their_points(tmp_path):
    slow = translation("slow")
    for point in slow["curve"]:
        point["seconds"] *= 3
    charts = json.loads(bench(tmp_path, [translation("fast"), slow]).texts["script"][0])["charts"]
    by_name = dict(zip(charts[0]["names"], charts[0]["values"], strict=True))
    assert charts[0]["steps"] == [0, 50, 100, 150, 300]
    assert by_name["fast"] == [10.0, 15.0, 20.0, None, None]
    assert by_name["slow"] == [10.0, pytest.approx(11.667), pytest.approx(13.333), 15.0, 20.0]


def test_what_changed_since_last_time_is_told(tmp_path):
    changes = [
        Change("dualgan_t1t2", "psnr a_to_b", REGRESSION, 24.9, 23.8, "dB"),
        Change("dualgan_t1t2", "step", BETTER, 120.0, 80.0, "ms"),
        Change("cut_t1t2", "row", NEW),
        Change("dualgan_t1t2", "ssim a_to_b", NO_CHANGE, 0.8, 0.8),
    ]
    words = bench(tmp_path, [translation()], changes=changes).words
    assert "REGRESSION dualgan_t1t2 psnr a_to_b 24.9 dB 23.8 dB" in words and "ssim a_to_b" not in words
    assert "no change" in bench(tmp_path, [translation()], changes=[]).words
    assert "Since last time" not in bench(tmp_path, [translation()]).words


def test_machine_versions_and_commands_are_told(tmp_path):
    other = translation("two", machine={"cpu": "other"})
    words = bench(tmp_path, [translation(), other]).words
    assert "gantk run dualgan_t1t2 --profile cpu --set train.steps=200 --seed 0" in words
    assert "torch 2.11" in words and "AMD EPYC (1 row) , other (1 row)" in words
    assert "gantk bench dualgan_t1t2 two --suite quick --against" in words


def test_the_command_that_compares_has_the_grid_of_the_rows(tmp_path):
    rows = [translation(grid={"method.cycle": cycle, "train.seed": seed}) for cycle in (1, 5) for seed in (0, 1)]
    words = bench(tmp_path, rows).words
    assert "gantk bench dualgan_t1t2 --suite quick --grid method.cycle=1,5 --grid train.seed=0,1 --against" in words


def test_of_a_key_that_was_set_twice_the_last_is_in_the_command(tmp_path):
    row = translation(settings=["train.steps=200", "data.size=[32, 32]", "train.steps=8"])
    assert "--set train.steps=8 --set 'data.size=[32, 32]' --seed 0" in bench(tmp_path, [row]).words


@pytest.mark.parametrize("rows", [[], [{}], [{"label": "x", "status": "ok"}], [{"status": "skipped", "peer": "CUT"}]])
def test_rows_that_say_hardly_anything_make_a_page_and_a_table(tmp_path, rows):
    assert len(bench(tmp_path, rows).groups) == len(rows)
    assert len(lines_of(table(rows))) == len(rows)


def test_hundreds_of_rows_make_a_page_of_reasonable_size(tmp_path):
    rows = [translation(f"recipe_{i}", grid={"method.cycle": i}) for i in range(150)]
    path = write_page(rows, tmp_path)
    assert len(Page(path).groups) == 300 and path.stat().st_size < 8_000_000


def missing_parts() -> list[dict]:
    """A good row that lacks one thing or another."""
    rows = []
    for key in ("metrics", "baselines", "verdict", "speed", "curve", "published", "domains", "machine", "git", "run"):
        rows += [translation(key) | {key: None}, {k: v for k, v in translation(f"no {key}").items() if k != key}]
    for part in ("value", "ci95", "unit", "definition", "higher_is_better", "n"):
        row = copy.deepcopy(translation(part))
        row["metrics"]["a_to_b"]["psnr"].pop(part)
        rows.append(row)
    row = copy.deepcopy(translation("nan"))
    row["metrics"]["a_to_b"]["psnr"] |= {"value": math.nan, "ci95": None}
    return [*rows, row]


def test_nothing_that_a_row_may_lack_breaks_the_page_or_the_table(tmp_path):
    rows = missing_parts()
    page, lines = bench(tmp_path, rows), lines_of(table(rows))
    assert len(page.groups) == len(lines) == sum(len(system.lines) for system in systems(rows)) > len(rows)


def lines_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table's body, a line for each direction of a row."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip().split("<br>") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    depths = [max(map(len, row)) for row in cells]
    return [[cell[i % len(cell)] for cell in row] for row, n in zip(cells, depths, strict=True) for i in range(n)]


def test_the_markdown_table_has_a_row_a_system_and_in_it_its_directions():
    text = table([*seeded(24.0, 25.0, 26.0), noise(), failed()])
    assert [row.count("<br>") > 0 for row in text.splitlines() if row.startswith("| `")] == [True, False, False]
    lines = lines_of(text)
    assert [" ".join(line[:2]) for line in lines] == [
        "`dualgan_t1t2` T1 → T2", "`dualgan_t1t2` T2 → T1", "`dcgan_phantom` FLAIR from noise", "`progan_tumour` –"
    ]  # fmt: skip
    assert {len(line) for line in lines} == {10}


def test_a_markdown_line_holds_all_that_is_compared():
    (line, back) = lines_of(table([translation()]))
    assert line[2:] == ["24.31 / 0.861", "23.90 / 0.850 (L1 U-Net regression)", "23.90 / 0.850", "14.50 / 0.290",
                        "8.09 / 0.00", "better (0.98)", "2 min 01 s", "38.3"]  # fmt: skip
    assert back[7] == "not better (0.07); without pairs better (0.99)"


def test_seeds_are_mean_lowest_and_highest_in_markdown():
    assert lines_of(table(seeded(24.0, 25.0, 26.0)))[0][2] == "25.00 (24.00-26.00) / 0.861 (0.861-0.861)"


def test_a_failed_row_says_why_in_markdown():
    assert lines_of(table([failed()]))[0][7] == "failed: the loss is not finite"


def test_hostile_strings_leave_the_markdown_table_whole():
    lines = lines_of(table([translation(HOSTILE, label=HOSTILE + "\n| x |", domains=[HOSTILE, "b"]), failed(HOSTILE)]))
    assert len(lines) == 3 and {len(line) for line in lines} == {10}
    assert "<script" not in table([failed("x", "failed", HOSTILE)])


def test_the_definitions_stand_beneath_the_markdown_table():
    text = table([translation()])
    assert "- PSNR: `psnr/fixed-range-2`." in text and "Identity returns the input." in text
    assert "Measured on AMD EPYC." in text


def test_a_score_without_an_interval_does_not_make_a_sure_verdict_unsure():
    from gantk_bench.systems import _of_seed

    sure = {"better": True, "best_baseline": "noise", "probability": 1.0}
    unknown = sure | {"probability": None}
    assert _of_seed({"kid_random": sure, "precision_random": unknown}).words == "better"
    assert _of_seed({"kid_random": unknown}).words == "better, within chance"
    near = {"kid_random": sure | {"probability": 0.7}, "recall_random": unknown}
    assert _of_seed(near).words == "better, within chance"
