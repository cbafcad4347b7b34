"""The engine: phases move their own modules only, at their own pace; fast paths compute what plain
ones do.
"""

import ast
import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from tiny import CPU
from torch import nn
from toy_method import Toy

import gantk
from gantk import registry
from gantk.errors import GantkError, UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Method, Phase, Stage, check_losses
from gantk.plugin.spec import bind
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.loop import inference_weights


def sgd(parameters, lr: float = 0.1):
    return torch.optim.SGD(parameters, lr=lr)


def engine_of(method: Method, steps: int = 4, **keys) -> Engine:
    return Engine(method, train_table(sgd, ema=0.0, **keys), steps, CPU)


def ones(step: int = 0, stage: Stage | None = None) -> Batch:
    return Batch(image=torch.ones(2, 1))


def train(engine: Engine) -> list[dict]:
    return [losses for _, _, losses in engine.fit(ones)]


# ---- phases --------------------------------------------------------------------------------------


def test_a_phase_updates_its_own_modules_only():
    method = Toy()
    method.player.register_parameter("fixed", nn.Parameter(torch.ones(1), requires_grad=False))
    train(engine_of(method, 1))

    assert not method.player.fixed.requires_grad
    assert method.player.fixed.grad is None
    assert method.seen == [(["fake", "image"], False, True)]
    # by hand: d(play)/d(player) = -2 + 2 * 0.5 = -1, and the critic judges the fake of before the
    # update
    assert method.player.weight.item() == pytest.approx(0.5 + 0.1)
    assert method.critic.weight.item() == pytest.approx(2.0 - 0.1 * 0.5)


def test_an_optimizer_that_ignores_its_closure_is_an_error():
    deaf = type("Deaf", (torch.optim.SGD,), {"step": lambda self, closure=None: None})
    with pytest.raises(UserError, match="never calls closure"):
        train(engine_of(Toy(), optimizers={"play": lambda parameters: deaf(parameters, lr=0.1)}))


LOSS = torch.ones((), requires_grad=True) * 2


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ({"x": 0.5}, "the loss 'x' is no tensor with one number"),
        ({"x": LOSS.expand(2, 1)}, "the loss 'x' is no tensor with one number"),
    ],
)
def test_losses_that_cannot_be_minimised_are_named(losses, text):
    method = Toy()
    phase = Phase("play", (), lambda batch: losses)

    with pytest.raises(UserError, match=f"{re.escape(text)}.*the phase 'play' of the method Toy"):
        check_losses(method, phase, losses)
    right = {"adversarial": LOSS, "constant": torch.zeros(())}

    assert check_losses(method, phase, right) is right


@pytest.mark.parametrize("size", [1, 2, 4])
def test_microbatches_count_by_their_images(size):
    """Of five images the last microbatch has fewer."""
    found = []
    for microbatch in (None, size):
        method = Toy()
        engine = engine_of(method, 1, microbatch=microbatch)
        ((_, _, losses),) = engine.fit(lambda step, stage: Batch(image=torch.arange(5.0)[:, None]))
        found.append([*losses.values(), *method.parameters()])

    torch.testing.assert_close(*found)


def test_what_is_shown_and_judged_is_of_the_averaged_weights():
    method = Toy(ema=True)
    engine = Engine(method, train_table(sgd, ema=0.9), 3, CPU)
    train(engine)
    weight = method.player.weight
    live = weight.item()
    averaged = engine.ema.average["player.weight"].item()
    with inference_weights(method, engine):
        assert weight.item() == averaged != live
        assert not method.training
    assert weight.item() == live
    assert method.training


# ---- what ends a training ------------------------------------------------------------------------


def test_a_diverging_training_stops_before_it_saves(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {
        "steps": 6,
        "log_every": 6,
        "save_every": 3,
        "optimizer": {"name": "sgd", "lr": 1e30},
    }

    with pytest.raises(
        GantkError, match=r"is not finite at step [23]\. There is no checkpoint yet"
    ) as raised:
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)

    # fp32 already
    assert "train.optimizer.lr" in str(raised.value)
    assert "train.precision" not in str(raised.value)
    assert raised.value.exit_code == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_the_loss_that_is_not_finite_is_named(tiny_recipe, tmp_path, monkeypatch):
    from gantk_translation.cyclegan import CycleGAN

    losses_of = CycleGAN.generator_losses

    def with_nan(method, batch):
        losses = losses_of(method, batch)
        return losses | {"cycle_b": losses["cycle_b"] * float("nan")}

    monkeypatch.setattr(CycleGAN, "generator_losses", with_nan)
    with pytest.raises(GantkError, match=r"the loss generators/cycle_b is not finite at step 1\."):
        gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)


def test_out_of_memory_says_what_to_lower(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "train_step", lambda engine, batch: torch.empty(2**60))
    more = {"microbatch": 1, "precision": "bf16"}
    for changes, text in (
        ({}, "microbatch=1; .*batch=1; .*size=.*bf16"),
        (more, "batch=1"),
    ):
        tiny_recipe["train"] |= {"batch": 2} | changes
        with pytest.raises(GantkError, match=f"memory on cpu.*{text}") as error:
            gantk.run(
                tiny_recipe, out=tmp_path / str(len(changes)), device="cpu", say=lambda line: None
            )
        assert ("microbatch" in str(error.value)) == (not changes)


# ---- schedules, stages, order, resuming ----------------------------------------------------------


def test_stages_follow_each_other_and_resume_inside():
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


def test_the_engine_knows_no_model():
    core = Path(gantk.__file__).parent
    models = {
        name for kind in ("method", "generator", "discriminator") for name in registry()[kind]
    }
    models = models - {"style"} | {"g_ab", "g_ba", "d_a", "d_b"}
    for path in [
        path for room in ("training", "runs", "machine") for path in (core / room).rglob("*.py")
    ]:
        if path.name != "two_way.py":  # what two-way methods share, a part of theirs
            tree = ast.parse(path.read_text("utf-8"))
            words = {
                getattr(node, "id", None) or getattr(node, "attr", None) for node in ast.walk(tree)
            }
            words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            assert not models & {word for word in words if isinstance(word, str)}, path


def test_random_numbers_depend_on_the_step_only():
    def drawn(others: int, seed: int = 0) -> list[torch.Tensor]:
        found = []
        noise = engine_of(Toy(), 3, seed=seed).fit(
            lambda step, stage: Batch(image=torch.randn(2, 1))
        )
        for _, batch, _ in noise:
            found.append(batch["image"].clone())
            torch.randn(others)  # a validation, a log point
        return found

    first = drawn(0)

    assert all(torch.equal(a, b) for a, b in zip(first, drawn(17), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], drawn(0, seed=1)[0])

    seeds = set()
    for rank, seed, step in product(range(4), repeat=3):
        Runtime(torch.device("cpu"), "fp32", False, rank, 4).seed(seed, step)
        seeds.add(torch.initial_seed())

    assert len(seeds) == 64


def test_optimizer_of_recipe_phase_wins_over_phase_over_recipe():
    class Own(Toy):
        def phases(self):
            play, judge = super().phases()
            return [Phase("play", play.updates, play.loss, optimizer=partial(sgd, lr=0.002)), judge]

    for optimizers, expected in (({}, 0.002), ({"play": sgd}, 0.1)):
        engine = engine_of(Own(), optimizers=optimizers)
        rates = {
            name: optimizer.param_groups[0]["lr"] for name, optimizer in engine.optimizers.items()
        }
        assert rates == {"play": expected, "judge": 0.1}


def test_the_learning_rate_and_the_progress_follow_the_schedule():
    method = Toy()
    engine = engine_of(method, 4, schedule=bind("schedule", "linear"))
    rates = {name: [] for name in engine.optimizers}
    progress = []
    for _ in engine.fit(ones):
        for name, optimizer in engine.optimizers.items():
            rates[name].append(optimizer.param_groups[0]["lr"])
        progress.append(method.progress.item())

    assert rates.keys() == {"play", "judge"}
    for of_phase in rates.values():
        assert of_phase == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert progress == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_phase_runs_on_every_nth_step(every):
    steps = train(engine_of(Toy(every=every), 7))
    assert [index for index, losses in enumerate(steps) if "play/size" in losses] == list(
        range(0, 7, every)
    )
    assert all("judge/critic" in losses for losses in steps)
