"""What a training costs, tried before it and used in all its sittings (time, memory), and
its learning rate.
"""

import sys
import time

import pytest
from tiny import TINY, python

import gantk
from gantk.errors import UserError
from gantk.runs.folder import RunFolder
from gantk.training import trial


def test_time_counts_from_the_start_of_the_process():
    code = (
        "import time; t = time.monotonic(); n = sum(range(5_000_000)); from gantk.machine import"
        " usage; "
    )
    code += "print(usage.since_start(), time.monotonic() - usage.IMPORTED, time.monotonic() - t)"
    began = time.monotonic()
    since, imported, before = map(float, python("-c", code).ok().out.split())

    assert imported < before <= since + 0.02  # the kernel counts in hundredths
    assert since <= time.monotonic() - began + 0.02


def test_runs_record_their_usage_and_what_is_unknown(copied_run, capsys):
    folder = RunFolder(copied_run)
    used = folder.usage()
    logged = [line.seconds for line in folder.read_log() if line.seconds is not None]

    assert used.step == 4
    assert used.seconds == pytest.approx(logged[-1], abs=0.001)
    assert used.first_step_s > 0
    (copied_run / "usage.json").write_text("{half")
    assert not folder.usage().model_fields_set
    assert "'usage.json' cannot be read" in capsys.readouterr().err

    lines = (copied_run / "log.jsonl").read_text().splitlines(keepends=True)
    damaged = ['{"step": -1}', '{"step": 2, "losses": {"g/x": "y"}}', "[" * 10**5, "x" * 3 * 2**20]
    (copied_run / "log.jsonl").write_text(
        "".join([lines[0], *(f"{each}\n" for each in damaged), *lines[1:], '{"st'])
    )

    assert len(folder.read_log()) == len(lines)
    assert "lines of log.jsonl cannot be read and will be ignored" in (
        said := capsys.readouterr().err
    )
    assert "line 2: step: " in said


@pytest.mark.slow
def test_a_trial_takes_real_steps_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = gantk.predict(TINY, device="cpu")

    assert found.fits
    assert 0.1 < found.peak_gib < found.available_gib
    assert not found.lighter
    assert found.step_s > 0
    assert found.hours == pytest.approx(4 * found.step_s / 3600)

    with pytest.raises(UserError, match="size"):
        gantk.predict(TINY, set=["data.size=[30, 30]"], device="cpu")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "steps"), [(0, 2), (1000, 4)])
def test_a_trial_of_slow_steps_takes_fewer(monkeypatch, seconds, steps):
    ended = []
    monkeypatch.setattr(trial, "MAX_STAGE_S", seconds)
    monkeypatch.setattr(
        "gantk.machine.runtime.Runtime.synchronize", lambda runtime: ended.append(1)
    )
    gantk.predict(TINY, device="cpu")
    assert len(ended) == steps


@pytest.mark.parametrize(
    ("batch", "less"), [(2, "train.microbatch=1"), (1, "train.fast.keep_memory=false")]
)
def test_what_does_not_fit_names_what_needs_less(monkeypatch, batch, less):
    def out_of_memory(*args):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(trial, "_time_stages", out_of_memory)
    found = gantk.predict(TINY, set=[f"train.batch={batch}"], device="cpu")

    assert not found.fits
    assert less in found.lighter[0]
    assert not any("data.size" in each for each in found.lighter[0])
    assert any("does not fit" in line for line in found.lines())
    assert f"--set {less}" in " ".join(found.lines())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
def test_a_trial_leaves_no_limit_on_the_process():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), trial._memory_limit(0.25):
        bytearray(2**34)  # more than the freed heap of earlier tests holds

    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(bytearray(2**30)) == 2**30


@pytest.mark.parametrize("device", ["cuda:99", "meta", "xpu", "hpu", "vulkan"])
def test_a_trial_on_a_missing_device_is_one_error(device):
    with pytest.raises(UserError, match="--device") as refused:
        gantk.predict(TINY, device=device)

    assert "--device cpu" in str(refused.value) or "Allowed" in str(refused.value)


# ---- the range test of learning rates
