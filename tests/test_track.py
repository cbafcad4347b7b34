"""Trackers hold what the run folder holds, each number once, in however many sittings the training was done."""

import importlib.util
import json
import shutil
import struct

import pytest

from gantk.api import resume, run
from gantk.errors import UserError


def of_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0})
    tags = events.Reload().Tags()
    numbers = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in tags["scalars"]}
    pictures = {name: [each.step for each in events.Images(name)] for name in tags["images"]}
    (said,) = {each.tensor_proto.string_val[0].decode() for each in events.Tensors("report/text_summary")}
    return numbers, pictures, said == str(folder / "report.html"), True


def of_wandb(folder):
    """Read from its offline files, LevelDB logs of protocol buffers, which `wandb sync` uploads."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    numbers, pictures, ids, rows, reports, codes = {}, {}, set(), [], 0, []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        ids.add(file.stem)
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
            if kind in (1, 4):  # whole, or the last part
                record, whole = messages.Record.FromString(whole), b""
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                if row and row["_step"] in rows:  # brought again after a kill: the server leaves it out by its number
                    continue
                rows += [row["_step"]] if row else []
                for name, value in row.items():
                    if name.endswith("/_type"):
                        pictures.setdefault(name.removesuffix("/_type"), []).append(row["step"])
                    elif not name.startswith(("_", "samples/")) and name != "step":
                        numbers.setdefault(name, []).append((row["step"], value))
                reports += record.artifact.type == "report"
                codes += [record.exit.exit_code] if record.HasField("exit") else []
    assert len(ids) == 1 and rows == sorted(rows)  # one run, whose sittings follow upon each other
    return numbers, pictures, reports == 1, codes[-1] == 0


def of_mlflow(folder):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'gantk'")
    (found,) = client.search_runs([experiment.experiment_id])
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    numbers = {name: sorted((each.step, each.value) for each in each_of) for name, each_of in histories.items()}
    pictures: dict[str, list] = {}
    for file in client.list_artifacts(found.info.run_id, "images"):
        name, _, rest = file.path.removeprefix("images/").partition("+step+")
        if rest.endswith(".png"):
            pictures.setdefault(name.replace("~", "/"), []).append(int(rest.split("+")[0]))
    reports = [file.path for file in client.list_artifacts(found.info.run_id)].count("report.html")
    assert found.data.params["method/name"] == "dualgan"
    return numbers, {k: sorted(v) for k, v in pictures.items()}, reports == 1, found.info.status == "FINISHED"


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}


QUIET = {"device": "cpu", "say": lambda line: None}


@pytest.fixture(autouse=True)
def no_accounts(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


LATE = [pytest.param(name, marks=pytest.mark.slow) for name in ("wandb", "mlflow")]  # they take seconds to import


@pytest.mark.parametrize("name", ["tensorboard", *LATE])
def test_a_tracker_holds_every_number_once_after_a_break_and_a_resume(name, tiny_recipe, tmp_path, monkeypatch):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install gantk[track]")
    from gantk.training.loop import Training

    tiny_recipe["train"] |= {"steps": 8, "sample_every": 2, "save_every": 3}
    log = Training._log

    def broken_off(self, *given):
        log(self, *given)
        if self.engine.step == 5:  # after the save of step 3: 4 and 5 are computed twice
            raise RuntimeError("a power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_log", broken_off)
        with pytest.raises(RuntimeError):
            run(tiny_recipe, out=tmp_path / "runs" / "one", track=[name], **QUIET)
    folder = resume(tmp_path / "runs" / "one", **QUIET)
    numbers, pictures, report, finished = READERS[name](folder.path)
    assert report and finished
    wanted: dict[str, list] = {}
    for line in folder.read_log():
        for kind in ("losses", "validation"):
            for one, value in line.get(kind, {}).items():
                for metric, score in value.items() if kind == "validation" else [("", value)]:
                    wanted.setdefault(f"{kind}/{one}/{metric}".rstrip("/"), []).append((line["step"], score))
    metrics = json.loads((folder.path / "metrics.json").read_text("utf-8"))
    for to, scores in metrics["metrics"].items():
        wanted |= {f"scores/{to}/{metric}": [(8, score["value"])] for metric, score in scores.items()}
    for series, values in wanted.items():
        assert [step for step, _ in numbers[series]] == [step for step, _ in values], series
        assert [value for _, value in numbers[series]] == pytest.approx([value for _, value in values], rel=1e-6)
    assert [step for step, _ in numbers["losses/generators/cycle_a"]] == list(range(1, 9))
    for series in ("samples/a_to_b-0", "samples/a_to_b-0/input", "samples/b_to_a-0/truth"):
        assert pictures[series] == [0, 2, 4, 6, 8]
    before = READERS[name](folder.path)
    resume(folder.path, **QUIET)  # a finished run is only scored again
    assert READERS[name](folder.path)[:2] == before[:2]


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


def test_a_tracker_that_fails_costs_one_warning_and_no_training(tiny_recipe, tmp_path, add_plugin, capsys):
    add_plugin("gantk-failing", "gantk_failing", BROKEN)
    folder = run(tiny_recipe | {"track": ["broken"]}, out=tmp_path / "run", **QUIET)
    assert (folder.path / "report.html").is_file()
    assert capsys.readouterr().out.count("broken does not follow this training any further: no route to host") == 1


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_written(
    gantk, tiny_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = gantk("run", tiny_file, "--out", tmp_path / "run", "--track", "mlflow")
    assert ended.code == 2 and "pip install mlflow" in ended.err and 'pip install "gantk[track]"' in ended.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="Did you mean 'wandb'"):
        run(tiny_file, track=["wandbb"], **QUIET)


def test_a_tracked_run_is_used_without_the_tracker(tiny_run, tmp_path, monkeypatch):
    import gantk

    copied = shutil.copytree(tiny_run, tmp_path / "run")
    recipe = copied / "recipe.toml"
    recipe.write_text(recipe.read_text("utf-8").replace("track = []", 'track = [{ name = "wandb" }]'), "utf-8")
    assert 'name = "wandb"' in recipe.read_text("utf-8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert gantk.load(copied, device="cpu")
