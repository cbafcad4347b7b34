"""`gantk bench` inside: suites and plans, comparisons, rows on the disk and bench.md."""

import re

import pytest
from tiny import ROOT, write_json

from gantk.errors import UserError
from gantk.metrics.table import MODEL, lines_of
from gantk.recipe.load import all_recipes, load_recipe
from gantk.runs.results import Score
from gantk_bench.comparison import change_lines, compare, regressed
from gantk_bench.forecast import forecast
from gantk_bench.plan import Options, jobs_for, recipe_names
from gantk_bench.rows import Row, figures, read_rows
from gantk_bench.statistics import sentences
from gantk_bench.suite import load_suite
from gantk_bench.systems import systems
from gantk_bench.tables import brief, markdown

pytestmark = pytest.mark.bench
RESULTS = ROOT / "benchmarks" / "results"


# ---- suites and plans


QUICK_METRICS = (
    {"psnr", "ssim", "mae", "nrmse"},
    {"kid", "prdc", "diversity"},
    {"kid", "transfer"},
    set(),
)


def test_the_quick_suite_needs_no_files_and_little_time():
    suite = load_suite("quick")
    names, named = recipe_names([], True, suite)
    for job in jobs_for(names, suite, Options(), named=named):
        assert job.recipe in suite.recipe
        model = load_recipe(job.recipe).override(job.settings, job.profile).check()
        sources = model.data.source.options.get("sources") or [model.data.source]
        assert {part.name for part in sources} == {"phantom"}, job.recipe
        weights = [part.options.get("weights") for part in model.post]
        assert weights in ([], ["random"]), job.recipe
        assert model.train.steps <= 2000, job.recipe
        assert model.evaluate.regression == 100, job.recipe
        scored = {part.name for part in model.evaluate.metrics}
        assert scored in QUICK_METRICS, job


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("limt = 3", "the suite has no option 'limt'. Did you mean 'limit'?"),
        ('jobs = "two"', "jobs: "),
        ("[recipe.cut_t1t3]\nlimit = 3", "there is no recipe 'cut_t1t3'. Did you mean 'cut_t1t2'?"),
        ("[recipe.cut_t1t2]\nsteps = 3", "recipe.cut_t1t2: there is no key 'steps' here."),
        ("recipe = 3", "recipe: input should be a table, not 3"),
        ("limit = ", "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_a_suite_is_named_with_its_place(tmp_path, text, told):
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        load_suite(str(tmp_path / "mine.toml"))
    assert told in str(caught.value)
    assert "mine.toml" in str(caught.value)


# ---- comparisons and rows
(RECORDED,) = (row for row in read_rows(RESULTS / "quick.jsonl") if row.label == "dualgan_t1t2")


def score(value: float, unit: str = "dB") -> dict:
    interval = [value - 0.5, value + 0.5]
    return {
        "value": value,
        "ci95": interval,
        "unit": unit,
        "definition": "x",
        "higher_is_better": True,
        "n": 5,
    }


def row(recipe: str = "dualgan_t1t2", psnr: float = 24.31, **more) -> Row:
    """The recorded row of a method that translates both ways, with round figures."""
    directions = ("a_to_b", "b_to_a")

    def both(one, other):
        return {d: {"psnr": score(one), "ssim": score(other, "")} for d in directions}  # noqa: E731

    judged = {"best_baseline": "regression", "without_pairs": {"better": True, "probability": 0.99}}
    return Row.model_validate(
        RECORDED.dump()
        | {
            "recipe": recipe,
            "label": recipe,
            "run": f"runs/{recipe}",
            "system": "DualGAN (Yi et al. 2017)",
            "metrics": both(psnr, 0.861),
            "baselines": {"identity": both(14.5, 0.29), "regression": both(23.9, 0.85)},
            "verdict": {
                "a_to_b": {"psnr": judged | {"better": True, "probability": 0.98}},
                "b_to_a": {"psnr": judged | {"better": False, "probability": 0.07}},
            },
            "speed": {
                "step_seconds": [0.10, 0.11, 0.12, 0.13],
                "peak_memory_gib": 1.25,
            },
            "published": {
                "a_to_b": {"psnr": 8.09, "ssim": 0.0},
                "b_to_a": {"psnr": 10.91, "ssim": 0.18},
            },
        }
        | more
    )


def test_untrained_results_are_flagged():
    taught = row("one")
    failed = row("two", psnr=6.5)
    part = row("three", psnr=13.9)
    for score_of in failed.metrics.values():
        score_of["ssim"].value = 0.2  # below what the input itself has, in both

    judged = {one.name: one.lines[0].judgement for one in systems([taught, failed, part])}

    assert judged["two"].words == "training failed: worse than the unchanged input"
    assert judged["two"].failed
    assert not judged["three"].failed

    for one in (taught, failed, part):
        one.test_images = "same"
        one.patients = {"a_to_b": {"psnr": {f"p{n}": 20.0 + n for n in range(8)}}}

    (leads, *_) = sentences(systems([taught, failed, part]))

    assert "one" in leads
    assert "two" not in leads
    assert "training failed" in markdown([failed])


@pytest.mark.parametrize(("patients", "compared"), [(2, True), (None, False)])
def test_images_of_unknown_patients_are_no_patients(patients, compared, tmp_path):
    """Scores of two images of so many patients, None if unknown."""
    (tmp_path / "recipe.toml").write_text('[data]\nsource = {name = "files"}\n', "utf-8")
    about = {"direction": "a_to_b", "system": MODEL, "image": ["001.png", "002.png"]}
    lines_of(["psnr"] * 2, 20.0, **about).to_csv(tmp_path / "scores.csv", index=False)
    files = {
        "metrics": {"metrics": {"a_to_b": {"psnr": {"value": 20.0, "n": patients}}}},
        "split": {"splits": {"test": []}},
        "environment": {},
    }
    for name, content in files.items():
        write_json(tmp_path / f"{name}.json", content)

    found = figures(tmp_path)["patients"].get("a_to_b", {})
    assert (len(found.get("psnr", {})) == 2) == compared


def verdicts(now: Row, before: Row) -> dict[str, str]:
    return {change.what: change.verdict for change in compare([now], [before])}


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (20.0, "no change"),
        (20.6, "no change"),
        (19.4, "no change"),
        (20.8, "better"),
        (19.2, "REGRESSION"),
    ],
)
def test_changed_scores_have_intervals_without_zero(value, verdict):
    """Two half widths of 0.5 make one of 0.707."""
    assert verdicts(row(psnr=value), row(psnr=20.0))["psnr a_to_b"] == verdict


@pytest.mark.parametrize(
    ("steps", "jobs", "verdict"),
    [
        ([0.10, 0.11, 0.12, 0.13], 1, "no change"),
        ([0.13, 0.14, 0.15, 0.16], 1, "REGRESSION"),  # by 26 %, alone on the machine
        ([0.13, 0.14, 0.15, 0.16], 2, "no change"),  # beside others
        ([0.20, 0.21, 0.22, 0.23], 2, "REGRESSION"),
        ([0.05, 0.06, 0.06, 0.06], 2, "better"),
        ([0.10, 0.11, 0.30, 0.31], 1, "no change"),  # a load that came and went
    ],
)
def test_slower_steps_are_beyond_the_tolerance(steps, jobs, verdict):
    assert (
        verdicts(row(jobs=jobs, speed={"step_seconds": steps}), row(jobs=jobs))["step"] == verdict
    )


@pytest.mark.parametrize(
    ("key", "told_as"), [("recipe_hash", "the recipe"), ("data_hash", "the data")]
)
def test_another_recipe_or_other_data_are_not_comparable(key, told_as):
    (change,) = compare([row(psnr=1.0, **{key: "other"})], [row()])
    assert change.verdict == "not comparable"
    assert told_as in change.reason
    assert not regressed([change])
    assert list(change_lines([change]))[-1] == "1 not comparable"


# ---- bench.md
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>|`\" '"


def test_no_text_of_a_row_is_markup_in_the_table():
    words = dict.fromkeys(("label", "error", "method", "summary", "system", "suite"), HOSTILE)
    hostile = row(HOSTILE, **words, domains=[HOSTILE, HOSTILE], settings=[HOSTILE])
    odd_score = Score.model_validate(score(1.0, HOSTILE) | {"definition": HOSTILE})
    hostile.metrics["a_to_b"][HOSTILE] = odd_score
    table = markdown([hostile])
    rows = [line for line in table.splitlines() if line.startswith("|")]

    assert "<script" not in table
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1


def test_of_many_contrasts_two_lines_are_shown():
    directions = {f"a_to_b{number}": {"psnr": score(20.0)} for number in range(9)}
    many = row(metrics=directions, verdict={}, baselines={})

    assert "7 more in rows.jsonl" in markdown([many])
    assert markdown([many]).count("20.00") == 1  # equal cells are written once
    assert brief(many).count("PSNR 20.00") == 2
    assert brief(many).endswith("7 more in rows.jsonl")


@pytest.mark.parametrize(("load", "told"), [(1.0, False), (4.2, True), (None, False)])
def test_work_of_others_on_the_machine_is_told(load, told):
    one = row(load=load, jobs=1, machine={"threads": 1})
    assert ("Up to 3 other processes ran on the machine" in markdown([one])) == told


# ---- how long it will take
@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, "unknown: no row has been trained before"),
        ({"cut_t1t2": 90.0}, "more than 45 s: 1 of 2 rows have been trained before"),
        ({"cut_t1t2": 90.0, "munit_t1t2": 30.0}, "about 1 min 00 s, as its 2 rows took last time"),
    ],
)
def test_a_bench_says_how_long_its_rows_took_last_time(known, told):
    planned = jobs_for(["cut_t1t2", "munit_t1t2"], load_suite("quick"), Options(), named=True)
    rows = [row(name, wall_s=seconds) for name, seconds in known.items()]
    failed = [row("cut_t1t2", wall_s=1.0, status="failed"), row("another", wall_s=9.0)]

    assert forecast(planned, 2, [*failed, *rows]).sentence() == told


def test_the_markdown_of_the_recorded_bench_is_the_recorded_one():
    made = markdown(read_rows(RESULTS / "quick.jsonl"))
    kept = (RESULTS / "quick.md").read_text("utf-8")
    shown = [
        [line for line in text.splitlines() if line.startswith("| `")] for text in (made, kept)
    ]

    assert shown[0] == shown[1]
    assert set(all_recipes()) <= {row.split("`")[1] for row in shown[0]}
