"""The engine: phases move their own modules only, at their own pace, whatever the method is called."""

from __future__ import annotations

import io
import math
import re
import tokenize
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import gantk
from gantk.errors import GantkError, UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase, Stage, check_networks
from gantk.plugin.loader import registry
from gantk.plugin.spec import bind
from gantk.training.engine import Engine, Plan
from gantk.training.optim import Constant, Linear
from gantk.training.two_way import CycleMethod, Terms

CPU = Runtime(torch.device("cpu"), "fp32", False)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def gentle(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


def plan(steps: int = 4, **changes) -> Plan:
    defaults = {"optimizer": sgd, "optimizers": {}, "schedule": Constant(), "microbatch": None, "ema": 0.0, "seed": 0}
    return Plan(steps, **(defaults | changes))


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
        self.seen.append(sorted(batch))
        fake = batch.get("fake", torch.zeros_like(batch["image"]))
        return {"critic": self.critic(fake).mean() + 0.1 * self.player(fake).mean()}


def ones(step: int = 0, stage: Stage | None = None) -> Batch:
    return Batch(image=torch.ones(2, 1))


def train(engine: Engine, batch_at=ones) -> list[dict]:
    return [losses for _, _, losses in engine.fit(batch_at)]


# ---- phases --------------------------------------------------------------------------------------


def test_a_phase_moves_its_own_modules_only():
    method, trainable = Toy(), []
    play, judge = method.play, method.judge

    def watched(name, loss):
        def call(batch):
            trainable.append((name, method.player.weight.requires_grad, method.critic.weight.requires_grad))
            return loss(batch)

        return call

    method.play, method.judge = watched("play", play), watched("judge", judge)
    Engine(method, plan(), CPU).train_step(ones())
    assert trainable == [("play", True, False), ("judge", False, True)]
    # by hand: d(play)/d(player) = -2 + 2 * 0.5 = -1, and the critic judges the fake of before the update
    assert method.player.weight.item() == pytest.approx(0.5 + 0.1)
    assert method.critic.weight.item() == pytest.approx(2.0 - 0.1 * 0.5)


def test_an_earlier_phase_leaves_its_fakes_for_a_later_one():
    method = Toy()
    train(Engine(method, plan(1), CPU))
    assert method.seen == [["fake", "image"]]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_phase_runs_on_every_nth_step(every):
    steps = train(Engine(Toy(every=every), plan(7), CPU))
    assert [index for index, losses in enumerate(steps) if "play/size" in losses] == list(range(0, 7, every))
    assert all("judge/critic" in losses for losses in steps)


def test_the_moving_average_follows_the_phases_that_ask_for_it():
    engine = Engine(Toy(ema=True), plan(3, ema=0.9), CPU)
    train(engine)
    assert set(engine.ema.average) == {"player.weight"} and engine.ema.updates == 3
    assert Engine(Toy(ema=False), plan(ema=0.9), CPU).ema is None
    assert Engine(Toy(ema=True), plan(ema=0.0), CPU).ema is None


def test_a_phases_own_optimizer_wins_over_the_recipes_and_the_recipes_table_over_both():
    def fast(parameters):
        return torch.optim.SGD(parameters, lr=5.0)

    class Own(Toy):
        def phases(self):
            play, judge = super().phases()
            return [Phase("play", play.updates, play.loss, optimizer=fast), judge]

    for optimizers, expected in (({}, 5.0), ({"play": sgd}, 0.1)):
        engine = Engine(Own(), plan(optimizers=optimizers), CPU)
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in engine.optimizers.items()}
        assert rates == {"play": expected, "judge": 0.1}


def test_what_a_method_froze_itself_stays_frozen():
    class Pretrained(Toy):
        def __init__(self):
            super().__init__()
            self.player.register_parameter("fixed", nn.Parameter(torch.ones(1), requires_grad=False))

    method = Pretrained()
    train(Engine(method, plan(3), CPU))
    assert not method.player.fixed.requires_grad and method.player.fixed.grad is None
    assert method.player.fixed.item() == 1.0 and method.player.weight.item() != 0.5


def test_an_optimizer_that_calls_its_closure_often_gets_true_losses():
    """L-BFGS evaluates several times a step; whole and in microbatches it must end at the same place."""

    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4)

    ends = []
    for microbatch in (None, 1):
        method = Toy()
        losses = train(Engine(method, plan(3, optimizers={"play": lbfgs}, microbatch=microbatch), CPU))
        ends.append((method.player.weight.item(), losses[-1]["play/size"].item()))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert ends[0][0] != 0.5


# ---- microbatches --------------------------------------------------------------------------------


def cycle_method(pool: int = 0, norm: str = "instance", size: int = 16) -> CycleMethod:
    torch.manual_seed(0)
    return CycleMethod(
        Geometry(2, (size, size), {"a": 1, "b": 1}),
        generator=bind("generator", {"name": "unet", "width": 4, "depth": 2, "norm": norm}),
        discriminator=bind("discriminator", {"name": "patchgan", "width": 4, "receptive_field": 16, "norm": norm}),
        adversarial=bind("loss", "ls"),
        terms=Terms(5.0, 5.0, identity=1.0),
        pool=pool,
    )


def images(step: int = 0, stage: Stage | None = None, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch({name: torch.rand(count, 1, 16, 16, generator=generator) * 2 - 1 for name in "ab"})


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("microbatch", [1, 2, 4])  # of 6: the last one may be smaller
def test_microbatches_equal_the_whole_batch(microbatch, channels_last):
    runtime, outcomes = Runtime(torch.device("cpu"), "fp32", channels_last), []
    for size in (None, microbatch):
        # a pool that is never full: which random numbers an image meets depends on the split
        method = runtime.place(cycle_method(pool=99), 2)
        losses = train(Engine(method, plan(3, microbatch=size, optimizer=gentle), runtime), images)[-1]
        outcomes.append((dict(method.named_parameters()), losses, method.pool_a.images))
    for name, parameter in outcomes[0][0].items():
        torch.testing.assert_close(parameter, outcomes[1][0][name], rtol=1e-4, atol=1e-6)
    for name, loss in outcomes[0][1].items():
        torch.testing.assert_close(loss, outcomes[1][1][name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outcomes[0][2], outcomes[1][2], rtol=1e-4, atol=1e-5)


# ---- losses that are not finite ------------------------------------------------------------------


class Failing(Toy):
    """Its second loss is not finite at one step."""

    def __init__(self, bad_step: int, value: float):
        super().__init__()
        self.bad_step, self.value, self.calls = bad_step, value, 0

    def play(self, batch):
        self.calls += 1
        losses = super().play(batch)
        factor = self.value if self.calls == self.bad_step else 1.0
        return losses | {"size": losses["size"] * factor}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_what_to_try(value):
    engine = Engine(Failing(3, value), plan(6), CPU)
    with pytest.raises(GantkError) as raised:
        for step, _ in enumerate(engine.fit(ones), 1):
            if step == 5:  # looked at later: by then every loss is nan
                engine.check_finite("The last good checkpoint is step 2.")
    text = str(raised.value)
    assert "the loss play/size is not finite at step 3" in text
    assert "The last good checkpoint is step 2." in text
    assert "train.optimizer.lr" in text and "train.precision" not in text  # which is fp32 already
    assert raised.value.exit_code == 1


def test_a_diverging_training_stops_before_it_saves(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 6, "log_every": 6, "save_every": 3, "optimizer": {"name": "sgd", "lr": 1e30}}
    with pytest.raises(GantkError, match=r"is not finite at step [23]\. No checkpoint had been saved yet"):
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_out_of_memory_says_what_to_lower_and_nothing_that_is_in_force(tiny_recipe, tmp_path, monkeypatch):
    def greedy(engine, batch):
        torch.empty(2**60)

    monkeypatch.setattr(Engine, "train_step", greedy)
    tiny_recipe["train"] |= {"batch": 2, "precision": "fp32"}
    with pytest.raises(GantkError, match=r"memory on cpu: .*recompute=true; .*microbatch=1; .*batch=1; .*size=.*bf16"):
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    tiny_recipe["train"] |= {"microbatch": 1, "recompute": True, "precision": "bf16"}
    with pytest.raises(GantkError) as error:
        gantk.run(tiny_recipe, out=tmp_path / "less", device="cpu", say=lambda line: None)
    assert "microbatch" not in str(error.value) and "train.batch=1" in str(error.value)


class Unreduced:
    """A reduction that reduces nothing."""

    def during(self, last: bool = True):
        return nullcontext()


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry().names("schedule"))
def test_every_schedule_stays_between_nothing_and_the_full_rate(name):
    schedule = bind("schedule", name)()
    assert all(0.0 <= schedule(step / 100) <= 1.0 for step in range(101))


def test_the_learning_rate_and_the_progress_follow_the_schedule():
    method = Toy()
    engine, rates, progress = Engine(method, plan(4, schedule=Linear()), CPU), [], []
    for _ in engine.fit(ones):
        rates.append(engine.optimizers["play"].param_groups[0]["lr"])
        progress.append(method.progress.item())
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert progress == [0.0, 0.25, 0.5, 0.75]


# ---- stages, order, resuming ---------------------------------------------------------------------


class Growing(Toy):
    """Two stages of two steps."""

    def stages(self, steps):
        return [Stage("small", 2, (2, 2)), Stage("large", 2, (4, 4))]

    def begin(self, stage, batch):
        self.begun = [*getattr(self, "begun", []), stage.name]


def test_stages_follow_each_other_and_begin_once():
    method = Growing()
    stages = [stage.name for stage, _, _ in Engine(method, plan(4), CPU).fit(ones)]
    assert stages == ["small", "small", "large", "large"] and method.begun == ["small", "large"]


def test_a_resume_begins_inside_its_stage():
    method = Growing()
    engine = Engine(method, plan(4), CPU)
    engine.step = 3
    assert [stage.name for stage, _, _ in engine.fit(ones)] == ["large"] and method.begun == ["large"]


def test_random_numbers_of_a_step_do_not_depend_on_what_was_drawn_before():
    def noise(step, stage):
        return Batch(image=torch.randn(2, 1))

    engine = Engine(Toy(), plan(3), CPU)
    first = [batch["image"].clone() for _, batch, _ in engine.fit(noise)]
    engine = Engine(Toy(), plan(3), CPU)
    second = []
    for _, batch, _ in engine.fit(noise):
        second.append(batch["image"].clone())
        torch.randn(17)  # a validation, a log point
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    other = [batch["image"] for _, batch, _ in Engine(Toy(), plan(3, seed=1), CPU).fit(noise)]
    assert not torch.equal(first[0], other[0])


def test_seeds_of_ranks_and_steps_do_not_meet():
    drawn = set()
    for rank in range(4):
        runtime = Runtime(torch.device("cpu"), "fp32", False, rank, 4)
        for seed in range(4):
            for step in range(4):
                runtime.seed(seed, step)
                drawn.add(torch.initial_seed())
    assert len(drawn) == 64


def test_state_goes_on_where_it_stopped():
    whole = cycle_method(pool=2)
    train(Engine(whole, plan(6, ema=0.9, optimizer=torch.optim.Adam), CPU), images)
    first = Engine(cycle_method(pool=2), plan(6, ema=0.9, optimizer=torch.optim.Adam), CPU)
    for _ in first.fit(images):
        if first.step == 3:
            break
    second = Engine(cycle_method(pool=2), plan(6, ema=0.9, optimizer=torch.optim.Adam), CPU)
    second.method.load_state_dict(first.method.state_dict())
    second.load_state_dict(first.state_dict(), first.ema.state_dict())
    train(second, images)
    assert second.step == 6
    assert all(torch.equal(tensor, second.method.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_networks_that_cannot_take_the_size_are_found_before_training():
    with pytest.raises(UserError, match=r"multiple of 4.*data\.size = \[18, 18\], for g_ab"):
        check_networks(cycle_method(size=18))


# ---- no model's name -----------------------------------------------------------------------------


def words_of_the_models() -> set[str]:
    named = {name for kind in ("method", "generator", "discriminator") for name in registry().names(kind)}
    return named | {"g_ab", "g_ba", "d_a", "d_b", "cycle", "pix2pix", "progan", "isinstance ( method"}


def code_of(file: Path) -> str:
    """A module without its comments and docstrings, which may name examples."""
    tokens = tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline)
    code = " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)
    return re.sub(r'""".*?"""', "", code, flags=re.DOTALL)


CORE = Path(gantk.__file__).parent
ENGINE = [CORE / "api.py", CORE / "method.py"]
ENGINE += [path for room in ("training", "runs", "machine") for path in sorted((CORE / room).rglob("*.py"))]
ENGINE.remove(CORE / "training" / "two_way.py")  # what two-way methods share, a part of theirs


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.stem)
def test_the_engine_knows_no_model(path):
    code = code_of(path)
    if path.stem == "method":  # its errors tell a user which methods can do what was asked
        code = re.sub(r'"(an image-to-image|a multimodal|a noise-to-image) method[^"]*"', "", code)
    code = re.sub(r"\bstyle\b(?! *[(.])", "", code)  # an image that a translation is to look like
    found = {word for word in words_of_the_models() if re.search(rf"(?<![A-Za-z]){re.escape(word)}", code)}
    assert not found
