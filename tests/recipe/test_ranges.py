"""What a recipe or a .onnx file may say is bounded: numbers, texts, nesting, and what a training of
it would take.
"""

from typing import Annotated, get_args, get_origin

import pytest
from tiny import parts_with_options

from gantk import checked_recipe
from gantk.errors import UserError
from gantk.plugin.spec import options_of
from gantk.recipe.load import all_recipes, load_recipe
from gantk.recipe.tables import TABLES

BASE = {"method": {"name": "dualgan"}, "train": {"steps": 1}}
# numbers without a range
BY_NATURE = "low high black mean std range attention volumes planes format air bone within"


def numbers_without_range(hint: object) -> bool:
    if get_origin(hint) is Annotated:
        return False
    return hint in (int, float) or any(map(numbers_without_range, get_args(hint)))


PLACES = {(entry.kind, entry.name): entry.load for entry in parts_with_options()}
PLACES |= {table: lambda table=table: TABLES[table][1] for table in TABLES}


@pytest.mark.parametrize("key", PLACES, ids=str)
def test_every_number_that_a_recipe_can_say_has_a_range(key):
    target = PLACES[key]()
    hints = {name: hint for name, hint, _ in options_of(target)}

    assert {name for name, hint in hints.items() if numbers_without_range(hint)} <= {
        *BY_NATURE.split()
    }


SETTINGS = {
    **{f"data.split.seed={value}": "data.split.seed: " for value in (-1, 2**63, "9" * 30)},
    **{f"train.seed={value}": "train.seed: " for value in (-1, 2**63, "9" * 5000)},
    **{
        f"method.discriminator.width={value}": "method.discriminator.width: .*than or equal"
        for value in (0, -8, 10**6)
    },
    **{
        f"method.{name}=-1": f"method.{name}: .*than or equal to 0, not -1"
        for name in ("cycle", "defense", "pool")
    },
    'data.augment=[{name="hflip",p=2}]': "data.augment.p: .*less than or equal to 1, not 2",
    "method.generator.depth=10000000": "method.generator.depth: .*less than or equal to 12",
    "data.neighbours=1000000": "data.neighbours: .*128",
    "data.source.subjects=1000000000": "data.source.subjects: .*10000",
    "train.steps=1000000000000000000": "train.steps: .*1000000000,",
    "train.optimizer.lr=-1e-4": "train.optimizer.lr: .*or equal to 0, not -0.0001",
    "method.low_res_warmup=1.5": "method.low_res_warmup: .*less than or equal to 1, not 1.5",
    "train.optimizer.lr=nan": "train.optimizer.lr: .*finite number, not NaN",
    "train.batch=inf": "train.batch: .*valid integer, not Infinity",
    f"post={['style'] * 17}": "post: .*at most 16",
    f"data.size={[1] * 20_000}": "data.size: it should have 2 positive sides",
    ".".join("a" * 20) + "=1": "does not have the form key=value",
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting[:40])
def test_a_setting_out_of_its_range_is_one_message_with_its_key(setting):
    with pytest.raises(UserError, match=SETTINGS[setting]) as raised:
        checked_recipe(BASE, None, [setting], None)
    assert len(str(raised.value)) < 500


FILES = {
    "nested": ("paper = " + "[" * 5000, "nested too deeply"),
    "lists": ("[paper]\na = " + "[" * 300 + "]" * 300, "recursion limit"),
    "dotted": ("a." * 60_000 + "b = 1", "nested deeper"),
    "digits": ("[data.split]\nseed = " + "9" * 5000, "digits"),
    "long": ("#" * 300_000, "longer than 262,144 bytes"),
    "nan": ("ema = nan", r"train\.ema: .*not NaN.*x\.toml:6"),
    "a day": ("[paper]\nx = 2020-01-01", "Object of type date"),
}


@pytest.mark.parametrize("name", FILES)
def test_oversized_recipe_files_are_one_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = FILES[name]
    (tmp_path / "x.toml").write_text('[method]\nname = "dualgan"\n[train]\nsteps = 1\n\n' + text)

    with pytest.raises(UserError, match=words):
        load_recipe("x.toml").check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["method.generator.width=10000"],
            r"needs at least [\d,.]+ GiB, but only .*64,.* M weights",
        ),
        (["method.pool=1000000000"], r"68,6[\d.,]+ GiB for image pools"),
        (["train.batch=1000000000"], r"137,[\d.,]+ GiB for the images of a step"),
    ],
)
def test_impossible_memory_is_refused_with_figures(settings, words, monkeypatch):
    from gantk.machine.runtime import start
    from gantk.training import memory
    from gantk.training.memory import require_memory

    monkeypatch.setattr(memory, "free_memory", lambda device: 12.0)
    with pytest.raises(UserError, match=words):
        require_memory(checked_recipe("dualgan_t1t2", None, settings, None)[1], start("cpu"))


def test_what_is_counted_is_what_is_built():
    from gantk.machine.runtime import start
    from gantk.runs.trained import build_method
    from gantk.training.memory import least_memory

    for name in sorted(
        set(all_recipes()) & {"dualgan_t1t2", "dcgan_phantom", "progan_phantom", "cyclegan_25d"}
    ):
        model = checked_recipe(name, None, [], None)[1]
        count = 2 * model.data.neighbours + 1
        channels = dict.fromkeys(("a", "b", "image"), count)
        built = build_method(model, channels, ("x", "y"), (-1.0, 1.0), start("cpu", "fp32"))
        least = least_memory(model)
        millions = sum(weight.numel() for weight in built.parameters()) / 1e6
        assert next(iter(least)).startswith(f"{millions:,.1f} M weights")
        assert least["image pools"] == sum(buffer.nbytes for buffer in built.buffers()) / 2**30
