"""While a training runs: plain lines or a bar on the terminal, and trackers that hold what the run
folder holds.
"""

import copy
import importlib.util
import io
import json
import shutil
import struct
import sys

import pytest
from rich.console import Console
from tiny import TINY, read_json

from gantk import progress, resume, run
from gantk.errors import UserError
from gantk.guest import guest
from gantk.progress import Work, clear_progress, progress_to, track
from gantk.terminal import say
from gantk.training.live import TrainingWork

# ---- the terminal: left as it was


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves on: `now[0] += seconds`."""
    seconds = [0.0]
    monkeypatch.setattr(progress, "clock", lambda: seconds[0])
    return seconds


@pytest.fixture
def terminal(monkeypatch):
    console = Console(
        file=io.StringIO(), width=200, height=40, force_terminal=True, color_system=None
    )
    monkeypatch.setattr(progress, "Console", lambda **options: console)
    return console.file


def test_the_live_line_says_what_is_done_and_what_is_left(now, terminal):
    with TrainingWork(1000, say, True, True, ("T1", "T2")) as training:
        for step in range(1, 401):
            # a slow start, as of a compiler or a first reading of files
            now[0] += 20.0 if step <= 100 else 0.5
            training.advance(step)

        training.add_validation({"a_to_b": {"psnr": 20.0}})
        with Work("scoring"):
            training.add_validation({"a_to_b": {"psnr": 21.5}})

    shown = terminal.getvalue()
    done = "step 400/1000  40%  left 5 min 00 s  scoring"
    assert f"{done}  validation PSNR at step 400: T1 -> T2 21.50" in shown


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            200,
            "step 400/1000  40%  left 30 s  validation PSNR at step 400: T1 -> T2 21.50  9.0 images/s",
        ),
        (80, "step 400/1000  40%  left 30 s  validation PSNR at step 400: T1 -> T2 21.50"),
        (70, "step 400/1000  40%  left 30 s"),
        (26, "step 400/…  40%  left 30 s"),
    ],
)
def test_a_narrow_line_keeps_percent_and_time_left(width, line, monkeypatch):
    training = TrainingWork(1000, say, False, True, ("T1", "T2"))
    training.add_speed(9.0)
    training.done = 400
    training.add_validation({"a_to_b": {"psnr": 21.5}})
    monkeypatch.setattr(training, "time_left", lambda share: "left 30 s")
    assert progress.line_of([training], width)[1] == line


def test_lines_are_printed_above_the_live_line(terminal):
    with guest(say), Work("reading"):
        say("note     a line")

    assert "\x1b[2Knote     a line\n" in terminal.getvalue()
    say("note     another one")
    assert "another one" not in terminal.getvalue()


def test_a_pipe_gets_a_line_every_half_minute_and_at_the_end(now):
    said: list[str] = []
    with guest(said.append), TrainingWork(300, said.append, True, False) as training:
        for step in range(1, 301):
            now[0] += 0.5
            training.advance(step)

    assert [line.split()[1] for line in said] == [f"{n}/300" for n in (60, 120, 180, 240, 300)]
    assert "\x1b" not in "".join(said)


def test_a_pipe_gets_one_line_for_each_step_that_is_scored(gantk, tiny_file, tmp_path):
    out = gantk("run", tiny_file, "--out", tmp_path / "run", "--device", "cpu").ok().out
    lines = [line for line in out.splitlines() if line.startswith("step ")]

    assert [line.split()[1] for line in lines] == ["0/4", "2/4", "4/4"]
    for line in lines:
        step = line.split()[1].partition("/")[0]
        assert f"validation PSNR at step {step}: " in line
        assert "writing" not in line and "saving" not in line


def test_work_inside_work_is_one_line(now):
    said: list[str] = []
    with guest(said.append):
        for _ in track("ab", "reading", "file"):
            for _ in track(range(2), "", "slice"):
                now[0] += 40.0

    assert said == [
        "reading, file 1 of 2  25%  left 2 min 00 s  slice 2 of 2",
        "reading, file 2 of 2  50%  left 1 min 20 s",
        "reading, file 2 of 2  75%  left 40 s  slice 2 of 2",
    ]


def test_many_short_works_print_a_line_every_30_s(now):
    said: list[str] = []
    with guest(said.append):
        for fold in range(4):
            for _ in track(range(2), f"scoring fold {fold}"):
                now[0] += 10.0

    expected = ["scoring fold 1, image 2 of 2  50%  left 10 s", "scoring fold 3, image 1 of 2  0%"]
    assert said == expected
    now[0] += 100.0  # the host's own work
    with guest(said.append):
        assert [*track("a", "scoring")] == ["a"]
    assert said == expected


def test_a_function_hears_the_progress_in_place_of_the_terminal():
    heard = []
    with progress_to(lambda share, line: heard.append((share, line.split("  ")[0]))):
        for _ in track("ab", "reading", "file"):
            pass

    assert heard[-1] == (0.5, "reading, file 2 of 2")


def test_a_function_is_work_while_it_runs(now):
    @Work("matching")
    def match(deeper: bool) -> str:
        with Work("", 5, "slice") as slices:
            slices.advance(2)
            return match(False) if deeper else progress.line_of(progress._display.works)[1]

    assert match(True) == "matching  slice 3 of 5  48%  matching  slice 3 of 5"
    assert progress._display.works == []


def test_a_failure_ends_its_work():
    with guest(lambda line: None), pytest.raises(ValueError, match="a fault"):
        for _ in track("ab", "reading"):
            raise ValueError("a fault")
    clear_progress()
    assert progress._display.works == []


# ---- trackers: each number once, in however many sittings the training was done


def of_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    tags = events.Reload().Tags()
    numbers = {
        name: [(each.step, each.value) for each in events.Scalars(name)] for name in tags["scalars"]
    }
    return numbers, True


def chunks_of(data: bytes):
    """(kind, content) of the parts of records in a LevelDB log, blocks of 32 KiB with headers of 7."""
    at = 7
    while at + 7 <= len(data):
        left_in_block = 32768 - at % 32768
        if left_in_block < 7:
            at += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7
        yield kind, data[at : at + length]
        at += length


def records_of(data: bytes):
    """The records of a LevelDB log, put together from their parts."""
    whole_record = 1
    last_part = 4
    record = b""
    for kind, content in chunks_of(data):
        record += content
        if kind in (whole_record, last_part):
            yield record
            record = b""


class WandbHistory:
    """What the rows of an offline run hold: numbers by name, with their steps."""

    def __init__(self):
        self.numbers: dict[str, list] = {}
        self.rows: list[int] = []

    def add(self, row: dict) -> None:
        # brought again after a kill: the server leaves it out by its number
        if not row or row["_step"] in self.rows:
            return

        self.rows.append(row["_step"])
        for name, value in row.items():
            if not name.startswith("_") and name != "step":
                self.numbers.setdefault(name, []).append((row["step"], value))


def of_wandb(folder):
    """Read from its offline files, LevelDB logs of protocol buffers, which `wandb sync` uploads."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    history = WandbHistory()
    codes = []
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    for file in files:
        for content in records_of(file.read_bytes()):
            record = messages.Record.FromString(content)
            items = record.history.item
            history.add({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)

    # one run, whose sittings follow upon each other
    assert len({file.stem for file in files}) == 1
    assert history.rows == sorted(history.rows)
    return history.numbers, codes[-1] == 0


def of_mlflow(folder):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'gantk'")
    (found,) = client.search_runs([experiment.experiment_id])
    histories = {
        name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics
    }
    numbers = {
        name: sorted((each.step, each.value) for each in each_of)
        for name, each_of in histories.items()
    }
    assert found.data.params["method/name"] == "dualgan"
    return numbers, found.info.status == "FINISHED"


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}


QUIET = {"device": "cpu", "say": lambda line: None}


@pytest.fixture(autouse=True)
def no_accounts(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


# they take seconds to import
LATE = [pytest.param(name, marks=pytest.mark.slow) for name in ("wandb", "mlflow")]


def series_of(folder) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every number that a run folder holds, by the name that trackers give it."""
    series: dict[str, list] = {}
    for line in folder.read_log():
        step = line.step
        for name, value in line.losses.items():
            series.setdefault(f"losses/{name}", []).append((step, value))
        for to, scores in line.validation.items():
            for metric, score in scores.items():
                series.setdefault(f"validation/{to}/{metric}", []).append((step, score))

    metrics = read_json(folder.path / "metrics.json")
    for to, scores in metrics["metrics"].items():
        for metric, score in scores.items():
            series[f"scores/{to}/{metric}"] = [(8, score["value"])]

    return series


@pytest.fixture(scope="module", params=["tensorboard", *LATE])
def tracked(request, tmp_path_factory):
    """A tracker's name, and a run that broke off after step 5 and was resumed from step 3."""
    name = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install gantk[track]")

    from gantk import Training

    recipe = copy.deepcopy(TINY)
    recipe["train"] |= {"steps": 8, "sample_every": 2, "save_every": 3}
    log = Training._log

    def broken_off(self, *given):
        log(self, *given)
        if self.engine.step == 5:  # after the save of step 3: 4 and 5 are computed twice
            raise RuntimeError("a power cut")

    out = tmp_path_factory.mktemp("tracked") / "runs" / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_log", broken_off)
        with pytest.raises(RuntimeError):
            run(recipe, out=out, track=[name], **QUIET)

    return name, resume(out, **QUIET)


def test_trackers_hold_each_number_once_after_a_resume(tracked):
    name, folder = tracked
    numbers, finished = READERS[name](folder.path)
    assert finished
    for series, wanted in series_of(folder).items():
        steps, values = zip(*numbers[series], strict=True)
        wanted_steps, wanted_values = zip(*wanted, strict=True)
        assert steps == wanted_steps, series
        assert values == pytest.approx(wanted_values, rel=1e-6)

    assert [step for step, _ in numbers["losses/generators/cycle_a"]] == list(range(1, 9))


BROKEN = """
from gantk import hookimpl

@hookimpl
def gantk_register(add):
    add.tracker("broken", "gantk_failing:Broken")

class Broken:
    def __init__(self, run, recipe, state):
        pass
    def put(self, step, values):
        raise ConnectionError("no route to host")
    end = put
"""


def test_a_tracker_that_fails_costs_one_warning_and_no_training(
    tiny_recipe, tmp_path, add_plugin, capsys
):
    add_plugin("gantk-failing", "gantk_failing", BROKEN)
    folder = run(tiny_recipe | {"track": ["broken"]}, out=tmp_path / "run", **QUIET)

    assert (folder.path / "report.html").is_file()
    assert (
        capsys.readouterr().out.count(
            "broken failed and no longer records this training (a resume tries again): no route"
            " to host"
        )
        == 1
    )


LISTING = """
from gantk import hookimpl

@hookimpl
def gantk_register(add):
    add.tracker("listing", "gantk_listing:Listing")

class Listing:
    def __init__(self, run, recipe, state):
        pass
    def put(self, step, values):
        if "losses/g/l1" in values:
            print("sent", step, *(name for name in values))
    def end(self, step, finished):
        print("ended", step)
"""


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{half a line",
        "5",
        '{"losses": {"g/l1": 1.0}}',
        '{"step": "2", "losses": {"g/l1": 1.0}}',
    ],
)
def test_trackers_get_the_readable_lines_of_a_log(copied_run, add_plugin, capsys, damaged):
    from gantk_cluster.track import bring_up_to_date

    add_plugin("gantk-listing", "gantk_listing", LISTING)
    recipe = copied_run / "recipe.toml"
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("track = []", 'track = [{ name = "listing" }]'), "utf-8")
    lines = ['{"step": 1, "losses": {"g/l1": 1.0}}', '{"step": 3, "losses": {"g/l1": 1.0}}']
    lines[1:1] = [damaged] if damaged else []
    (copied_run / "log.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    bring_up_to_date(copied_run, ending=True)
    said = capsys.readouterr().out

    assert [line for line in said.splitlines() if line.startswith(("sent", "ended"))] == [
        "sent 1 losses/g/l1",
        "sent 3 losses/g/l1",
        "ended 3",
    ]


def test_a_missing_tracker_is_an_error_before_writing(gantk, tiny_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = gantk("run", tiny_file, "--out", tmp_path / "run", "--track", "mlflow").refused()

    assert "needs the package mlflow" in told
    assert 'pip install "gantk[track]"' in told
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="Did you mean 'wandb'"):
        run(tiny_file, track=["wandbb"], **QUIET)


def test_a_tracked_run_is_used_without_the_tracker(tiny_run, tmp_path, monkeypatch):
    import gantk

    copied = shutil.copytree(tiny_run, tmp_path / "run")
    recipe = copied / "recipe.toml"
    recipe.write_text(
        recipe.read_text("utf-8").replace("track = []", 'track = [{ name = "wandb" }]'), "utf-8"
    )

    assert 'name = "wandb"' in recipe.read_text("utf-8")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert gantk.load(copied, device="cpu")
