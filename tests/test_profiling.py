"""Promises of `gantk run --profile-steps`: costs that add up, the same bits, words that help, nothing left behind."""

from __future__ import annotations

import copy
import gzip
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gantk.costs import step_costs
from gantk.costs.step_advice import Facts, lines, operators, remedies, whole_shares
from gantk.costs.step_costs import MARK, Costs, costs, kind_of
from gantk.recipe.tables import TrainTable
from gantk.runs.checkpoint import latest
from gantk.training.profiling import Profile

# ---- synthetic traces


def event(name: str, start: float, end: float, *, cat="cpu_op", tid=1, **args) -> dict:
    pid = 0 if cat in ("kernel", "gpu_memcpy") else 7
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": end - start, "pid": pid, "tid": tid, "args": args}


def mark(label: str, start: float, end: float) -> dict:
    return event(MARK + label, start, end, cat="user_annotation")


STEP = [
    mark("steps", 0, 1000),
    mark("batch preparation", 0, 100),
    mark("waiting for data", 10, 60),
    event("aten::to", 70, 90),
    mark("phase generators", 100, 800),
    mark("losses and gradients", 110, 700),
    mark("forward", 120, 400),
    mark("in g_ab.stem Conv2d", 130, 300),
    event("aten::conv2d", 140, 290, **{"Sequence number": 5, "Input Dims": [[2, 1, 8, 8], [4, 1, 3, 3]]}),
    event("aten::empty", 150, 160),
    event("aten::_to_copy", 170, 190),
    mark("in g_ab.norm InstanceNorm", 310, 350),
    event("aten::mul", 315, 345, **{"Sequence number": 6}),
    event("autograd::engine::evaluate_function: MulBackward0", 500, 540, **{"Sequence number": 6}),
    event("aten::mul", 505, 535),
    event("autograd::engine::evaluate_function: ConvolutionBackward0", 540, 650, **{"Sequence number": 5}),
    event("aten::convolution_backward", 545, 645),
    event("aten::_fused_adam_", 720, 780),
    mark("moving average", 800, 850),
    event("aten::lerp_", 810, 840),
    mark("samples and checkpoints", 900, 990),
    event("aten::conv2d", 910, 980),
]


def test_each_part_of_a_step_is_counted_where_it_belongs():
    found = costs(STEP, 1)
    assert {name: round(seconds * 1e6) for name, seconds in found.categories.items()} == {
        "waiting for data": 50,
        "batch preparation": 100 - 50 - 20,
        "copies and casts": 20 + 20,
        "convolutions": 150 - 20 + 100,
        "norms": 30 + 30,
        "optimizer": (800 - 100) - (700 - 110),
        "moving average": 50,
        "python and launches": 910 - 50 - 30 - 40 - 230 - 60 - 110 - 50,
    }
    assert round(found.seconds * 1e6) == 910
    assert round(found.apart * 1e6) == 90
    assert round(found.directions["convolutions", "forward"] * 1e6) == 130
    assert round(found.directions["convolutions", "backward"] * 1e6) == 100
    assert round(found.phases["generators"] * 1e6) == 700


def test_a_gradient_is_told_to_the_module_whose_forward_pass_asked_for_it():
    rows = {(row["operator"], row["direction"]): row for row in operators(costs(STEP, 1))}
    assert rows["aten::convolution_backward", "backward"]["where"] == "g_ab.stem"
    assert rows["aten::conv2d", "forward"]["where"] == "g_ab.stem 2x1x8x8"
    assert rows["aten::mul", "backward"]["category"] == "norms"


def test_on_a_gpu_a_kernel_counts_and_what_the_host_does_meanwhile_does_not():
    kernels = [
        event("sm90_xmma_fprop_implicit_gemm", 200, 400, cat="kernel", **{"External id": 3}),
        event("Memcpy HtoD (Pinned -> Device)", 420, 440, cat="gpu_memcpy", **{"External id": 99}),
        event("some_graph_kernel", 430, 460, cat="kernel", **{"External id": 99}),
    ]
    step = [mark("steps", 0, 500), mark("waiting for data", 0, 150), mark("phase generators", 150, 480),
            mark("losses and gradients", 150, 470), mark("forward", 150, 300),
            event("aten::conv2d", 155, 165, **{"External id": 3})]  # fmt: skip
    found = costs([*step, *kernels], 1)
    assert {name: round(seconds * 1e6) for name, seconds in found.categories.items()} == {
        "convolutions": 200,
        "copies and casts": 20,
        "pointwise and sums": 20,  # the rest of a kernel that began while another ran
        "waiting for data": 150,
        "python and launches": 50 + 20 + 40,
    }
    assert round(found.phases["generators"] * 1e6) == 50 + 200 + 20 + 20
    assert found.busy == pytest.approx(240e-6)


def test_a_gpus_backward_thread_knows_its_phase_and_its_modules():
    step = [
        mark("steps", 0, 100), mark("phase critics", 0, 90), mark("losses and gradients", 0, 80),
        mark("forward", 0, 40), mark("in d_a Conv2d", 5, 20),
        event("aten::conv2d", 6, 10, **{"Sequence number": 1, "External id": 1}),
        event("autograd::engine::evaluate_function: ConvolutionBackward0", 50, 60, tid=2, **{"Sequence number": 1}),
        event("aten::convolution_backward", 51, 59, tid=2, **{"External id": 2}),
        event("dgrad", 55, 75, cat="kernel", **{"External id": 2}),
    ]  # fmt: skip
    dearest = next(row for row in operators(costs(step, 1)) if row["category"] == "convolutions")
    assert (dearest["phase"], dearest["direction"], dearest["where"]) == ("critics", "backward", "d_a")


NAMES = st.sampled_from(
    ["aten::conv2d", "aten::empty", "aten::copy_", "aten::mul", "aten::batch_norm", "MulBackward0", "JoinBackward"]
    + ["autograd::engine::evaluate_function: MulBackward0", "aten::_fused_adam_", "aten::randn"]
    + [MARK + label for label in ("waiting for data", "batch preparation", "phase a", "losses and gradients")]
    + [MARK + label for label in ("forward", "moving average", "logging", "samples and checkpoints", "in g.x Norm")]
)


@st.composite
def nested(draw, start: float = 0.0, end: float = 1024.0, depth: int = 3) -> list[dict]:
    """Events that lie inside or beside each other, as a thread's do."""
    cuts = sorted(draw(st.lists(st.integers(int(start), int(end)), max_size=6)))
    found = []
    for first, last in zip(cuts[::2], cuts[1::2], strict=False):
        name, number = draw(NAMES), draw(st.integers(0, 9))
        kind = "user_annotation" if name.startswith(MARK) else "cpu_op"
        found.append(event(name, first, last, cat=kind, **{"Sequence number": number, "External id": number}))
        if depth:
            found += draw(nested(first, last, depth - 1))
    return found


@settings(max_examples=150, deadline=None)
@given(nested(), st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 200), st.integers(0, 12)), max_size=6))
def test_categories_phases_and_operators_each_add_up_to_the_step(host, device):
    kernels = [event("k", at, at + long, cat="kernel", **{"External id": number}) for at, long, number in device]
    found = costs([mark("steps", 0, 1024), *host, *kernels], 2)
    assert found.seconds + found.apart == pytest.approx(1024e-6)
    for parts in (found.categories, found.phases, found.operators):
        assert sum(parts.values()) == pytest.approx(found.seconds, abs=1e-12)
        assert min(parts.values(), default=0) >= 0
    assert sum(row["share"] for row in operators(found)) == pytest.approx(1.0 if found.seconds else 0.0)


def test_a_trace_without_marked_steps_is_refused():
    with pytest.raises(ValueError, match="no range of marked steps"):
        costs([event("aten::mul", 0, 1)], 1)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("TransposedProductBackward", "convolutions"),
        ("cudnn::bn_fw_tr_1C11", "norms"),
        ("sm80_xmma_dgrad_implicit_gemm_bf16", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("aten::upsample_bilinear2d", "resampling and padding"),
        ("aten::reflection_pad2d", "resampling and padding"),
        ("aten::contiguous", "copies and casts"),
        ("aten::native_group_norm", "norms"),
        ("aten::linalg_vector_norm", "pointwise and sums"),
        ("aten::as_strided", None),
        ("aten::tanh", "pointwise and sums"),
        ("aten::normal_", "random numbers"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "talk between ranks"),
    ],
)
def test_operators_and_kernels_are_sorted_by_name(name, kind):
    assert kind_of(name) == kind


# ---- words


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(lambda p: sum(p) > 1e-3), st.integers(1, 100))
def test_whole_shares_add_up_and_are_off_by_less_than_one(parts, total):
    shares = whole_shares(parts, total)
    assert sum(shares) == total
    assert all(abs(share - part / sum(parts) * total) < 1 for share, part in zip(shares, parts, strict=True))


def facts(device="cpu", *, workers=2, world=1, notes=(), precision="bf16", threads=2, system=0.0, **table) -> Facts:
    return Facts(TrainTable(**table), workers, device, precision, world, 0.1, tuple(notes), threads, 2, system, 5e4)


def spent(**seconds: float) -> Costs:
    """One step of a second in which that much went to each category, the rest to convolutions."""
    names = {"wait": "waiting for data", "copies": "copies and casts", "overhead": "python and launches"}
    names |= {"prepare": "batch preparation", "ranks": "talk between ranks"}
    found = Costs(1)
    rest = {"convolutions": 1 - sum(seconds.values())}
    for name, part in ({names.get(name, name): part for name, part in seconds.items()} | rest).items():
        found.add(part, step_costs.State(kind=name, direction="forward"), name)
    return found


@pytest.mark.parametrize(
    "where, given, words",
    [
        (spent(wait=0.3), facts(workers=0), "set data.workers = 2"),
        (spent(wait=0.3), facts(workers=2), "raise data.workers from 2"),
        (spent(prepare=0.3), facts(), "data.augment"),
        (spent(overhead=0.4), facts("cuda", capture="off"), 'set train.capture = "auto"'),
        (spent(overhead=0.4), facts("cuda", notes=["it was refused"]), "because it was refused"),
        (spent(overhead=0.4), facts("cuda"), "raise train.batch from 1"),
        (spent(overhead=0.4), facts("cpu"), "raise train.batch from 1"),
        (spent(overhead=0.4), facts("cpu", batched=False), "set train.batched = true"),
        (spent(), facts(system=0.3, allocator="system"), "50,000 pages of memory"),
        (spent(), facts(channels_last=False), "set train.channels_last = true"),
        (spent(norms=0.3), facts(kernels=False), "set train.kernels = true"),
        (spent(optimizer=0.3), facts(fused=False), "set train.fused = true"),
        (spent(ranks=0.3), facts(world=2, overlap=False), "set train.overlap = true"),
        (spent(ranks=0.3), facts(world=2), "raise train.batch"),
        (spent(logging=0.3), facts(), "raise train.log_every from 20"),
        (spent(), facts(threads=1), "use all 2 cores"),
        (spent(), facts(recompute=True), "set train.recompute = false"),
    ],
)
def test_a_remedy_is_named_where_it_applies(where, given, words):
    assert words in " ".join(remedies(where, given))


def test_a_step_that_computes_gets_no_advice():
    assert remedies(spent(copies=0.05, overhead=0.05), facts()) == []


def test_bf16_is_advised_only_where_it_was_turned_off():
    off = Facts(**{**vars(facts(precision="fp32")), "table": TrainTable(precision="fp32")})
    assert 'set train.precision = "auto"' in remedies(spent(), off)[0]
    assert remedies(spent(), facts(precision="fp32")) == []  # auto, on a device that is not good at it


def test_at_most_two_remedies_the_largest_share_first():
    found = remedies(spent(wait=0.1, prepare=0.3, logging=0.2), facts())
    assert len(found) == 2
    assert "data.augment" in found[0] and "log_every" in found[1]


def test_the_words_name_shares_operators_and_remedies():
    found = list(lines(costs(STEP, 1), facts(workers=0)))
    assert found[0].startswith("profile  1 steps of 0.00091 s")
    assert "convolutions 25 % (backward 11, forward 14)" in found[1]
    assert any("convolution, forward · generators · in g_ab.stem 2x1x8x8" in line for line in found)
    assert any(line.startswith("remedy   set data.workers = 2") for line in found)
    assert sum(int(word) for word in _shares(found[1])) == 100


def _shares(line: str) -> list[str]:
    return [part.split(" %")[0].split()[-1] for part in line.removeprefix("profile  ").split(" · ")]


# ---- real runs


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """(recipe, folder) of a tiny run of which three steps were traced."""
    import gantk

    recipe = copy.deepcopy(TINY)
    recipe["train"] |= {"steps": 10, "sample_every": 7, "save_every": 10}
    folder = tmp_path_factory.mktemp("profile") / "run"
    gantk.run(recipe, out=folder, device="cpu", profile_steps=3, say=lambda line: None)
    return recipe, folder


def test_a_real_trace_adds_up_and_names_phases_and_modules(traced):
    _, folder = traced
    found = json.loads((folder / "profile" / "summary.json").read_text())
    assert sum(part["share"] for part in found["categories"].values()) == pytest.approx(1.0)
    assert sum(part["seconds"] for part in found["categories"].values()) == pytest.approx(found["seconds_per_step"])
    assert {"convolutions", "norms", "optimizer", "moving average", "logging", "waiting for data"} <= set(
        found["categories"]
    )
    assert {"forward", "backward"} <= set(found["categories"]["convolutions"])
    assert {"generators", "discriminators"} <= set(found["phases"])
    assert found["apart_seconds"] > 0  # samples were drawn after step 7
    assert any(row["where"].startswith(("g_ab.", "g_ba.")) for row in found["operators"])
    assert found["untraced_seconds_per_step"] > 0


def test_the_trace_is_a_chrome_trace(traced):
    _, folder = traced
    with gzip.open(folder / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    again = costs(events, 3)
    kept = json.loads((folder / "profile" / "summary.json").read_text())
    assert again.seconds / 3 == pytest.approx(kept["seconds_per_step"])
    assert sum(event.get("name") == MARK + "phase generators" for event in events) == 3


def test_a_traced_training_computes_the_same_bits(traced, tmp_path):
    import gantk

    recipe, folder = traced
    plain = gantk.run(recipe, out=tmp_path / "plain", device="cpu", say=lambda line: None)
    for name in ("weights.safetensors", "state.pt"):
        one, other = (latest(f / "checkpoints") / name for f in (folder, plain.path))
        assert one.read_bytes() == other.read_bytes(), name


def test_the_costs_are_printed_and_a_run_that_is_not_traced_has_none(gantk, tiny_file, tmp_path):
    done = gantk("run", tiny_file, "--out", tmp_path / "run", "--set", "train.steps=7", "--profile-steps", 1)
    assert done.code == 0, done.err
    assert "profile  1 steps of " in done.out
    assert "trace    " in done.out
    done = gantk("run", tiny_file, "--out", tmp_path / "other", "--set", "train.steps=1")
    assert "profile" not in done.out
    assert not (tmp_path / "other" / "profile").exists()


def test_no_steps_to_trace_is_a_usage_error(gantk, tiny_file):
    done = gantk("run", tiny_file, "--profile-steps", 0)
    assert done.code == 2
    assert "0 is not in the range x>=1" in done.err


def test_a_training_that_is_too_short_is_refused_before_anything_is_written(gantk, tiny_file, tmp_path):
    done = gantk("run", tiny_file, "--out", tmp_path / "run", "--profile-steps", 3)
    assert done.code == 2
    assert done.err.strip().endswith(
        "3 traced steps come after 5 others, and this training has 4. Set train.steps to 8 or more.  (--profile-steps)"
    )
    assert not (tmp_path / "run").exists()


class Loop:
    """As much of a training as a profile looks at, around one convolution."""

    def __init__(self):
        weights = nn.Sequential(nn.Conv2d(1, 1, 3))
        optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
        self.engine = SimpleNamespace(
            step=0, phases=[], optimizers={"all": optimizer}, ema=None, notes=[], _closure=lambda: None
        )
        self.parts = SimpleNamespace(method=weights, batches=SimpleNamespace(at=lambda step: step))
        self.runtime = SimpleNamespace(device=torch.device("cpu"), synchronize=lambda: None, main=True)
        self._batch_at = self._log = self._samples = self._save = lambda *args: None

    def state(self) -> list:
        owners = (self, self.engine, self.parts.batches, self.engine.optimizers["all"])
        return [dict(vars(owner)) for owner in owners]


def test_nothing_is_left_behind_whatever_happens():
    loop = Loop()
    before = loop.state()
    profile = Profile(2)
    with pytest.raises(KeyboardInterrupt), profile.watch(loop):
        for step in range(1, 7):
            if profile.due(step):
                profile.turn(step)
        assert torch.autograd._profiler_enabled()
        raise KeyboardInterrupt
    assert not torch.autograd._profiler_enabled()
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks
    assert loop.state() == before
