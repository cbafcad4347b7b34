"""The engine: phases move their own modules only, at their own pace; fast paths compute what plain ones do."""

from __future__ import annotations

import io
import math
import re
import tokenize
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gantk
from gantk.errors import GantkError, UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase, Stage, check_losses
from gantk.plugin.loader import registry
from gantk.plugin.spec import bind
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.optim import Linear

CPU = Runtime(torch.device("cpu"), "fp32", False)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def gentle(parameters):
    return torch.optim.SGD(parameters, lr=0.002)


def engine_of(method: Method, steps: int = 4, rule=sgd, runtime: Runtime = CPU, ema: float = 0.0, **keys) -> Engine:
    return Engine(method, train_table(rule, ema=ema, **keys), steps, runtime)


class Toy(Method):
    """A player and a critic of one weight each; `seen` are the batch's names at each phase."""

    reads = ("image",)

    def __init__(self, geometry=None, *, every: int = 1, ema: bool = False):
        super().__init__(geometry or Geometry(2, (4, 4), {"image": 1}))
        self.player, self.critic = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.every, self.ema, self.seen = every, ema, []
        nn.init.constant_(self.player.weight, 0.5)
        nn.init.constant_(self.critic.weight, 2.0)

    def phases(self):
        return [
            Phase("play", (self.player,), self.play, every=self.every, ema=self.ema),
            Phase("judge", (self.critic,), self.judge),
        ]

    def play(self, batch):
        fake = self.player(batch["image"])
        batch["fake"] = fake.detach()
        return {"adversarial": -self.critic(fake).mean(), "size": fake.square().mean()}

    def judge(self, batch):
        self.seen.append((sorted(batch), self.player.weight.requires_grad, self.critic.weight.requires_grad))
        fake = batch.get("fake", torch.zeros_like(batch["image"]))
        return {"critic": self.critic(fake).mean() + 0.1 * self.player(fake).mean()}


def ones(step: int = 0, stage: Stage | None = None) -> Batch:
    return Batch(image=torch.ones(2, 1))


def train(engine: Engine, batch_at=ones) -> list[dict]:
    return [losses for _, _, losses in engine.fit(batch_at)]


# ---- phases --------------------------------------------------------------------------------------


def test_a_phase_moves_its_own_modules_only_and_leaves_its_fakes_for_a_later_one():
    method = Toy()
    train(engine_of(method, 1))
    assert method.seen == [(["fake", "image"], False, True)]
    # by hand: d(play)/d(player) = -2 + 2 * 0.5 = -1, and the critic judges the fake of before the update
    assert method.player.weight.item() == pytest.approx(0.5 + 0.1)
    assert method.critic.weight.item() == pytest.approx(2.0 - 0.1 * 0.5)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_phase_runs_on_every_nth_step(every):
    steps = train(engine_of(Toy(every=every), 7))
    assert [index for index, losses in enumerate(steps) if "play/size" in losses] == list(range(0, 7, every))
    assert all("judge/critic" in losses for losses in steps)


def test_the_moving_average_follows_the_phases_that_ask_for_it():
    engine = engine_of(Toy(ema=True), 3, ema=0.9)
    train(engine)
    assert set(engine.ema.average) == {"player.weight"} and engine.ema.updates == 3
    assert engine_of(Toy(ema=False), ema=0.9).ema is engine_of(Toy(ema=True), ema=0.0).ema is None


def test_a_phases_own_optimizer_wins_over_the_recipes_and_the_recipes_table_over_both():
    class Own(Toy):
        def phases(self):
            play, judge = super().phases()
            return [Phase("play", play.updates, play.loss, optimizer=gentle), judge]

    for optimizers, expected in (({}, 0.002), ({"play": sgd}, 0.1)):
        engine = engine_of(Own(), optimizers=optimizers)
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in engine.optimizers.items()}
        assert rates == {"play": expected, "judge": 0.1}


def test_what_a_method_froze_itself_stays_frozen():
    method = Toy()
    method.player.register_parameter("fixed", nn.Parameter(torch.ones(1), requires_grad=False))
    train(engine_of(method, 3))
    assert not method.player.fixed.requires_grad and method.player.fixed.grad is None
    assert method.player.fixed.item() == 1.0 and method.player.weight.item() != 0.5


def test_an_optimizer_that_calls_its_closure_often_gets_true_losses():
    """L-BFGS evaluates several times a step; whole and in microbatches it must end at the same place."""

    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4)

    ends = []
    for microbatch in (None, 1):
        method = Toy()
        losses = train(engine_of(method, 3, optimizers={"play": lbfgs}, microbatch=microbatch))
        ends.append((method.player.weight.item(), losses[-1]["play/size"].item()))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert ends[0][0] != 0.5


LOSS = torch.ones((), requires_grad=True) * 2
NUMBER = "and not one number as a tensor. Return its .mean() or .sum(), where it was computed, without .item()"


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (None, "the phase did not return its losses by name. Allowed: "),
        ({}, "the phase did not return its losses by name. Allowed: "),
        (LOSS, "the phase did not return its losses by name. Allowed: "),
        ({"x": 0.5}, f"the loss 'x' is float, {NUMBER}"),
        ({"x": LOSS.expand(2, 1)}, f"the loss 'x' is Tensor of shape (2, 1) on cpu, {NUMBER}"),
        ({"x": torch.zeros((), device="meta")}, f"the loss 'x' is Tensor of shape () on meta, {NUMBER}"),
        ({"x": LOSS.detach()}, "no loss (x) leads back to a weight, so that nothing can be learned from it."),
    ],
    ids=["none", "empty", "tensor", "float", "shape", "device", "detached"],
)
def test_losses_that_cannot_be_minimised_are_named(losses, text):
    method, phase = Toy(), Phase("play", (), lambda batch: losses)
    with pytest.raises(UserError) as error:
        check_losses(method, phase, losses)
    assert str(error.value).startswith(text) and str(error.value).endswith("(the phase 'play' of the method Toy)")
    right = {"adversarial": LOSS, "constant": torch.zeros(())}
    assert check_losses(method, phase, right) is right


# ---- microbatches, memory formats, precisions ----------------------------------------------------

OPTIONS = {
    "dualgan": {"local_ncc": 2.0, "flat_region": 4.0},
    "cyclegan": {"identity": 5.0, "pool": 2},
}


def build(name: str = "cyclegan", dims: int = 2, size: int = 16, **options) -> Method:
    torch.manual_seed(0)
    parts = {"generator": {"name": "unet", "width": 4, "depth": 2}}
    parts["discriminator"] = {"name": "patchgan", "width": 4, "receptive_field": 16}
    return bind("method", {"name": name} | parts | OPTIONS[name] | options)(
        Geometry(dims, (size,) * dims, {"a": 1, "b": 1})
    )


def images(step: int = 0, stage: Stage | None = None, dims: int = 2, count: int = 6) -> Batch:
    """Blobs with structure, so that every loss has something to say."""
    noise = torch.rand(2 * count, 1, *(5,) * dims, generator=torch.Generator().manual_seed(step)) * 2 - 1
    smooth = F.interpolate(noise, (16,) * dims, mode="bilinear" if dims == 2 else "trilinear")
    return Batch(a=smooth[:count].contiguous(), b=smooth[count:].contiguous())


def trained(method: Method, *, precision="fp32", last=True, count=2, steps=3, optimizer=gentle, microbatch=None):
    """(losses of the last step, weights) of a short training."""
    dims = method.geometry.dims
    runtime = Runtime(torch.device("cpu"), precision, last)
    method = runtime.place(method, dims)
    engine = engine_of(method, steps, optimizer, runtime, microbatch=microbatch)

    def batch_at(step, stage):
        batch = images(step, dims=dims, count=count)
        return Batch({name: runtime.place(image, dims) for name, image in batch.items()})

    return train(engine, batch_at)[-1], dict(method.named_parameters())


def assert_close(one, other, rtol: float, atol: float) -> None:
    for each, same in zip(one, other, strict=True):
        assert each.keys() == same.keys()
        for name, tensor in each.items():
            torch.testing.assert_close(
                tensor, same[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_memory_formats_agree_and_bf16_stays_close_to_fp32(name, dims):
    last, contiguous = (trained(build(name, dims), last=choice) for choice in (True, False))
    assert_close(last, contiguous, rtol=1e-4, atol=1e-6)
    (low, low_weights), (full, full_weights) = trained(build(name, dims), precision="bf16"), last
    for loss, value in full.items():
        assert low[loss].dtype == torch.float32
        assert float(low[loss]) == pytest.approx(float(value), rel=0.05, abs=0.02), loss
    before = dict(build(name, dims).named_parameters())
    moved = [torch.cat([(w[n] - before[n]).flatten() for n in before]) for w in (low_weights, full_weights)]
    # The weights went the same way. In 3-D the structure loss has few windows here, and Adam lifts the rounding of tiny
    # gradients: 0.967 for these images, 0.982 to 0.990 for four other sets of them.
    assert F.cosine_similarity(*moved, dim=0) > (0.95 if (name, dims) == ("dualgan", 3) else 0.98)
    assert all(weight.dtype == torch.float32 for weight in low_weights.values())


# ---- what ends a training ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_what_to_try(value):
    class Failing(Toy):
        def play(self, batch):
            losses = super().play(batch)
            return losses | {"size": losses["size"] * (value if len(self.seen) == 2 else 1.0)}

    engine = engine_of(Failing(), 6)
    with pytest.raises(GantkError) as raised:
        for step, _ in enumerate(engine.fit(ones), 1):
            if step == 5:  # looked at later: by then every loss is nan
                engine.check_finite("The last good checkpoint is step 2.")
    text = str(raised.value)
    assert "the loss play/size is not finite at step 3" in text and "The last good checkpoint is step 2." in text
    assert "train.optimizer.lr" in text and "train.precision" not in text  # which is fp32 already
    assert raised.value.exit_code == 1


def test_a_diverging_training_stops_before_it_saves(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 6, "log_every": 6, "save_every": 3, "optimizer": {"name": "sgd", "lr": 1e30}}
    with pytest.raises(GantkError, match=r"is not finite at step [23]\. No checkpoint had been saved yet"):
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_out_of_memory_says_what_to_lower_and_nothing_that_is_in_force(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "train_step", lambda engine, batch: torch.empty(2**60))
    tiny_recipe["train"] |= {"batch": 2, "precision": "fp32"}
    with pytest.raises(GantkError, match=r"memory on cpu: .*recompute=true; .*microbatch=1; .*batch=1; .*size=.*bf16"):
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    tiny_recipe["train"] |= {"microbatch": 1, "recompute": True, "precision": "bf16"}
    with pytest.raises(GantkError) as error:
        gantk.run(tiny_recipe, out=tmp_path / "less", device="cpu", say=lambda line: None)
    assert "microbatch" not in str(error.value) and "train.batch=1" in str(error.value)


# ---- schedules, stages, order, resuming ----------------------------------------------------------


def test_the_learning_rate_and_the_progress_follow_the_schedule():
    method = Toy()
    engine, rates, progress = engine_of(method, 4, schedule=Linear), [], []
    for _ in engine.fit(ones):
        rates.append(engine.optimizers["play"].param_groups[0]["lr"])
        progress.append(method.progress.item())
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert progress == [0.0, 0.25, 0.5, 0.75]


def test_stages_follow_each_other_begin_once_and_a_resume_begins_inside_its_own():
    class Growing(Toy):
        def stages(self, steps):
            return [Stage("small", 2, (2, 2)), Stage("large", 2, (4, 4))]

        def begin(self, stage, batch):
            self.begun = [*getattr(self, "begun", []), stage.name]

    for done, expected in ((0, ["small", "small", "large", "large"]), (3, ["large"])):
        method = Growing()
        engine = engine_of(method, 4)
        engine.step = done
        assert [stage.name for stage, _, _ in engine.fit(ones)] == expected
        assert method.begun == sorted(set(expected), reverse=True)


def test_random_numbers_of_a_step_do_not_depend_on_what_was_drawn_before():
    def drawn(others: int, seed: int = 0) -> list[torch.Tensor]:
        found = []
        noise = engine_of(Toy(), 3, seed=seed).fit(lambda step, stage: Batch(image=torch.randn(2, 1)))
        for _, batch, _ in noise:
            found.append(batch["image"].clone())
            torch.randn(others)  # a validation, a log point
        return found

    first = drawn(0)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(17), strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], drawn(0, seed=1)[0])


def test_seeds_of_ranks_and_steps_do_not_meet():
    drawn = set()
    for number in range(64):
        rank, seed, step = number // 16, number // 4 % 4, number % 4
        Runtime(torch.device("cpu"), "fp32", False, rank, 4).seed(seed, step)
        drawn.add(torch.initial_seed())
    assert len(drawn) == 64


# ---- no model's name -----------------------------------------------------------------------------


def words_of_the_models() -> set[str]:
    named = {name for kind in ("method", "generator", "discriminator") for name in registry().names(kind)}
    return named | {"g_ab", "g_ba", "d_a", "d_b", "cycle", "pix2pix", "progan", "isinstance ( method"}


def test_the_engine_knows_no_model():
    core = Path(gantk.__file__).parent
    files = [core / "api.py", core / "method.py"]
    files += [path for room in ("training", "runs", "machine") for path in sorted((core / room).rglob("*.py"))]
    files.remove(core / "training" / "two_way.py")  # what two-way methods share, a part of theirs
    found = []
    for path in files:
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        code = " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)
        code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)  # docstrings may name examples
        if path.stem == "method":  # its errors tell a user which methods can do what was asked
            code = re.sub(r'"(an image-to-image|a multimodal|a noise-to-image) method[^"]*"', "", code)
        code = re.sub(r"\bstyle\b(?! *[(.])", "", code)  # an image that a translation is to look like
        words = [w for w in words_of_the_models() if re.search(rf"(?<![A-Za-z]){re.escape(w)}", code)]
        found += [f"{path.name}: {word}" for word in words]
    assert found == []
