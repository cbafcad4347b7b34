"""A published system is what its report states, as it is built and as it computes; and a change of
it is noticed.
"""

import copy
import dataclasses
import functools
import re
import tomllib

import observed
import pytest
import torch
import torch.nn.functional as F
from tiny import ROOT

from gantk import registry
from gantk.data.split import SplitTable
from gantk.nets import blocks
from gantk.recipe.load import Recipe, load_recipe, resolved

REPORTS = tomllib.loads((ROOT / "tests" / "fidelity" / "stated.toml").read_text("utf-8"))
COMMON = REPORTS.pop("common")
NAMED = REPORTS.pop("named")  # recipe -> keys of what its report names without a weight
SYSTEMS = {}  # recipe -> {"group.name": what is stated}, and which keys are open
for _report in REPORTS.values():
    for _name, _own in _report["systems"].items():
        _tables = [_report["stated"], _own]
        if like := _own.pop("like", None):
            _tables[1:1] = [_report["systems"][like], {"style": _report["style"]}]
        _open = [
            *COMMON["open"],
            *_report["open"],
            *(key for table in _tables for key in table.get("open", ())),
        ]
        _groups = [(group, x) for table in _tables for group, x in table.items() if group != "open"]
        SYSTEMS[_name] = (
            {f"{group}.{key}": x for group, values in _groups for key, x in values.items()},
            _open,
        )
KINDS = ("generator", "discriminator", "loss", "intensity", "optimizer", "schedule")
HALVINGS = blocks.halvings
OF_TRAINING = observed.of_training
OBSERVED = observed.observed
WORDS = (
    "none",
    "pad",
    "batch",
    "resize",
    "transpose",
    "tanh",
    "sigmoid",
    "pool",
    "l2",
    "content",
    "random",
    "normal",
    "all",
)


def model_of(name, profile=None):
    return load_recipe(name).override([], profile).check()


def departures(name, model):
    """ "group.name" -> what a checked recipe has there, where the report of the system `name` states
    otherwise.
    """
    found = {
        f"{group}.{key}": x
        for group, values in observed.observed(model).items()
        for key, x in values.items()
    }
    stated = SYSTEMS[name][0].items()
    return {
        key: f"{found.get(key)}, and stated is {x}"
        for key, x in stated
        if key not in found or found[key] != x
    }


def settings(tables, path=()):
    """(path, value) of every setting of resolved tables; lists of tables entry by entry."""
    if isinstance(tables, list) and tables and isinstance(tables[0], dict):
        tables = dict(enumerate(tables))
    inner = tables.items() if isinstance(tables, dict) else ()
    if inner:
        return [each for key, value in inner for each in settings(value, (*path, key))]
    return [(path, tables)]


@pytest.mark.fidelity
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_published_system_is_what_its_report_states(name):
    assert departures(name, model_of(name)) == {}


@pytest.mark.fidelity
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_profile_changes_sizes_and_lengths_only(name):
    whole, other = (dict(settings(resolved(model_of(name, profile)))) for profile in (None, "cpu"))
    keys = (
        ".".join(map(str, path)) for path in whole | other if whole.get(path) != other.get(path)
    )

    assert [key for key in keys if not re.search("|".join(COMMON["profile"]), key)] == []


@pytest.mark.fidelity
@pytest.mark.parametrize("name", REPORTS["R4"]["systems"])
def test_the_profile_cpu_of_tumour_systems_keeps_the_layers(name):
    kept = []
    for profile in (None, "cpu"):
        keys = dict(settings(resolved(model_of(name, profile))))
        kept.append({path: x for path, x in keys.items() if path[-1] in ("depth", "layers")})

    assert kept[0] == kept[1]


@pytest.mark.fidelity
def test_a_published_figure_stands_beside_its_system_alone():
    recipes = {path.stem: path.read_text("utf-8") for path in (ROOT / "recipes").glob("*.toml")}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    lines = [line.lower() for page in pages for line in page.read_text("utf-8").splitlines()]
    for figure, system in (("8.09", "cyclegan"), ("10.91", "dualgan")):
        assert [name for name, text in recipes.items() if figure in text] == [
            f"{system}_t1t2_unet15"
        ]
        assert [
            line
            for line in lines
            if re.search(rf"\b{re.escape(figure)}\b", line) and system not in line
        ] == []


def other_values(value):
    """Values that a setting might have instead, likely ones first."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2, value + 1, value / 2, value // 2, 0.1, 50, 0.99, 3]
    if isinstance(value, str):
        return list(WORDS)
    if not value or isinstance(value[0], str):
        return [[f"{each}+PD" for each in value], value[::-1]] if value else [["hflip"], [1], [2]]
    return [[2 * x for x in value], [x / 2 for x in value], [x // 2 for x in value], [0.0, 1.0]]


def changes(tables):
    """(key, what it might be instead, as (path, value)) of every setting, named part and entry of a
    list.
    """
    own = {key: tables[key] for key in ("method", "data", "train", "post") if key in tables}
    for path, value in settings(own):
        key = ".".join(map(str, path))
        tries = changes_of_setting(tables, path, value)
        if key == "data.domains":
            yield from ((key, [one]) for one in tries)
        else:
            yield key, tries

    yield "counts", [(("data", "source", "counts"), [300, 920])]
    yield "no doubling", [(("method", "generator", "max_multiplier"), 1)]
    for part in ("validation", "test"):
        yield f"no {part}", [(("data", "split", part), 0.0)]

    yield "paper.data", [(("paper", "data"), "7 T1 and 8 T2 slices")]
    yield "paper.published", [(("paper", "published"), {"a_to_b": {"psnr": 30.0}})]


def changes_of_setting(tables, path, value):
    """What one setting or the part that it names might be instead, as (path, value)."""
    method = tables["method"]
    inside = path[:-1]
    if path == ("method", "name"):
        if "generator" in method:
            parts = {part: method[part] for part in ("generator", "discriminator")}
            other = "cyclegan" if value == "pix2pix" else "pix2pix"
            return [(inside, parts | {"name": other})]
    elif path[-1] == "name":
        if isinstance(path[-2], int):
            return [(inside, None)]  # out of the list
        if path[0] != "post":
            return [(inside, {"name": name}) for name in other_names(value)]

    return [(path, other) for other in other_values(value) if other != value]


def other_names(name):
    """Parts of the kinds that have a part of this name, likely ones first."""
    names = set()
    for kind in KINDS:
        if name in registry()[kind]:
            names.update(registry()[kind])
    return sorted(names - {name}, key=lambda other: (other not in ("resnet", "hinge", "l2"), other))


@functools.cache
def noticed(name):
    """By key that the report does not leave open: what departs once it is changed, to the first
    value that will do.
    """
    found = {}
    tables = resolved(model_of(name))
    free = re.compile("|".join(SYSTEMS[name][1]))
    for key, tries in changes(tables):
        for path, value in tries if not free.search(key) else ():
            try:
                inner = whole = copy.deepcopy(tables)
                for step in path[:-1]:
                    inner = inner[step]
                inner[path[-1]] = value
                if value is None:
                    del inner[path[-1]]
                found[f"{key} = {str(value)[:60]}"] = set(departures(name, Recipe(whole).check()))
                break
            except Exception:  # no recipe may say so, or no such system can be built: another value
                continue

    return found


def with_other(place, name, **more):
    """Where a function stands, and it, as if it were called with other options."""
    called = getattr(place, name)
    return place, name, lambda *args, **options: called(*args, **options | more)


def built_otherwise(change, built=observed.built):
    return observed, "built", lambda model: change(method := built(model)) or method


def trains_generators_every_second_step(method):
    first, *others = method.phases()
    method.phases = lambda: [dataclasses.replace(first, every=2), *others]


def one_norm_less(method, name):
    [module for module in getattr(method, name).modules() if "Norm" in type(module).__name__][
        -1
    ].forward = lambda x: x


def compares_another_image(term):
    """Style Transfer GAN's loss of a name compares another image with its target."""

    def change(method):
        compute = method.generator_losses

        def losses(batch):
            found = compute(batch)
            return found | {term: found[term] + method.l1(batch["a"], batch["b"])}

        method.generator_losses = losses

    return built_otherwise(change)


def of_training_without_saves(model, method):
    train = model.train.model_copy(update={"save_every": 10**9})
    return OF_TRAINING(model.model_copy(update={"train": train}), method)


def observed_by_class(model):
    """What is observed of a system whose networks are given the class as well."""
    tables = resolved(model)
    tables["method"]["conditional"] = True
    tables["data"]["labels"] = True
    return OBSERVED(Recipe(tables).check())


def shows_the_image_twice(method):
    method._add = lambda plain, example: method.g_ab(torch.cat([plain, plain], 1))


HALVES = SplitTable(test=0.5, validation=0.0)
SABOTAGE = {  # what no setting of a recipe changes -> what to put in whose place
    "weights.drawn": (blocks, "init_weights", lambda module: module),
    "generator.alike": built_otherwise(lambda method: one_norm_less(method, "g_ba")),
    "discriminator.alike": built_otherwise(lambda method: one_norm_less(method, "d_b")),
    "discriminator.doubling": (
        blocks,
        "halvings",
        lambda d, i, f, *m: HALVINGS(d, i, f[-1:] * len(f), *m),
    ),
    "discriminator.padding": with_other(blocks, "conv", mode="reflect"),
    "generator.by_class": (observed, "observed", observed_by_class),
    "generator.ends": (blocks, "output_activation", lambda kind: torch.nn.Sigmoid()),
    "generator.first_layer": (
        F,
        "linear",
        lambda x, w, b=None: torch.conv1d(x[..., None], w[..., None])[..., 0],
    ),
    "generator.orders_up": (torch.Tensor, "relu_", torch.Tensor.sigmoid_),
    "data.parts": with_other(observed, "split_records", table=HALVES),
    "data.random_parts": with_other(observed, "split_records", table=HALVES),
    "losses.identity": compares_another_image("identity"),
    "losses.style": compares_another_image("style"),
    "generator.sees_example": built_otherwise(shows_the_image_twice),
    "training.saves": (observed, "of_training", of_training_without_saves),
    "training.one_forward_pass": built_otherwise(trains_generators_every_second_step),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_changed_setting_of_a_published_system_is_noticed(name):
    least = 2 if name == "style_gan_tumour" else 14  # of which little is stated
    assert len(noticed(name)) > least
    assert [key for key, found in noticed(name).items() if not found] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stated_value_fails_for_another_system(name, monkeypatch):
    left = set(SYSTEMS[name][0]) - set().union(*noticed(name).values())
    for value in sorted(left & SABOTAGE.keys()):
        with monkeypatch.context() as patch:
            patch.setattr(*SABOTAGE[value])
            left -= departures(name, model_of(name)).keys()

    assert left == set()
