"""Threads beside other work on a machine: as many as fit, chosen at the start and at saves, the
same after a resume.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gantk
from gantk.machine import cores
from gantk.training.engine import Engine


@given(
    st.integers(1, 64),
    st.floats(0, 64),
    st.floats(0, 64),
    st.integers(1, 128),
    st.floats(1, 900),
    st.floats(0, 1),
)
def test_threads_fit_beside_other_work(count, busy, more, most, passed, share):
    def threads(busy: float, counted: float = 1) -> int:
        left = max(0.0, count - busy) * passed  # of which `share` is this process's own
        now = (
            7 + passed,
            3 + share * left,
            9 + (1 - share) * left,
            5 + counted * passed * count,
            count,
        )
        return cores.threads_beside((7, 3, 9, 5, count), now, most)[1]

    assert 0 < threads(max(busy, more)) <= threads(busy) <= threads(0.25) == min(count, most)
    assert threads(busy) == 1 or threads(busy) + busy < count + 0.31
    assert threads(busy, counted=0.7) == 0  # a sandbox that hides the machine


@pytest.mark.parametrize(
    "limit", [{"cpu.max": "15 10", "a/b/cpu.max": "max 10"}, {"cpu,x/a/cpu.cfs_quota_us": "11"}]
)
def test_cores_and_cgroup_quotas_are_counted(tmp_path, monkeypatch, limit):
    stat = (
        "cpu  9 9 9 9\n"
        + "".join(f"cpu{n} {n}00 1 1 700 97 1 0 0 5 5\n" for n in range(4))
        + "intr 7\n"
    )
    limit |= {
        "self/cgroup": "4:cpu,x:/a/b\n0::/a/b",
        "stat": stat,
        "cpu,x/a/cpu.cfs_period_us": "10",
    }
    for at, text in limit.items():
        (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / at).write_text(text)
    monkeypatch.setattr(cores, "PROC", tmp_path)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 3})
    assert cores.cpu_times()[2:] == (15.94, 20.0, 2)
    assert cores.cgroup_quota() == 2


@pytest.fixture
def busy(monkeypatch):
    """By how much others keep two cores busy before each reading that comes; without a number they
    are quiet.
    """
    loads = []
    readings = [(0.0,) * 5]
    before = torch.get_num_threads()

    def cpu_times():
        clock, _, idle, total, _ = readings[-1]
        readings.append((clock + 1, 0.0, idle + 2 - (loads.pop(0) if loads else 0.0), total + 2, 2))
        return readings[-1]

    monkeypatch.setattr(cores, "cpu_times", cpu_times)
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(2)
    yield loads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("loads", "step", "found"), [([0.2], 0, 2), ([1.0, 0.9], 0, 1), ([1.0], 0, 2), ([0.8], 9, 1)]
)
def test_busy_cores_cost_threads_unless_the_user_chose(busy, monkeypatch, loads, step, found):
    threads = cores.Threads(fixed=False)
    of_a_rank = cores.Threads(fixed=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for each, expected in (of_a_rank, 2), (cores.Threads(fixed=False), 2), (threads, found):
        busy[:] = loads
        assert bool(each.choose(step)) == (expected != 2)
        assert torch.get_num_threads() == expected
    threads.saved = 5  # of a machine with more cores
    assert "as the save was made with" in threads.choose(step)
    assert torch.get_num_threads() == 5


def test_a_resume_takes_the_threads_of_its_save_to_the_bit(
    busy, monkeypatch, tiny_recipe, tmp_path
):
    taken = []
    step = Engine.train_step
    last = "weights.safetensors"
    monkeypatch.setattr(
        Engine, "train_step", lambda *given: taken.append(torch.get_num_threads()) or step(*given)
    )
    busy[:] = 0.0, 0.0, 1.0, 1.0  # at the beginning, the start, and the first saves
    whole = gantk.run(tiny_recipe, set=["train.steps=8"], out=tmp_path / "whole", device="cpu").path
    gone = [
        save.rename(tmp_path / save.name)
        for save in sorted(whole.glob("checkpoints/step-00000[68]"))
    ]
    gantk.resume(whole, device="cpu")
    assert taken == [2, 2, 1, 1, 1, 1, 2, 2, *[1, 1, 2, 2]]
    assert torch.get_num_threads() == 2
    # after step 2, of the save, after 6
    assert (whole / "log.jsonl").read_text().count('"note": "threads ') == 3
    assert (gone[1] / last).read_bytes() == (whole / "checkpoints/step-000008" / last).read_bytes()
