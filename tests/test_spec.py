"""The signature is the schema: what a recipe may say to a part is what its keyword-only parameters say."""

from __future__ import annotations

from typing import Literal

import pytest

from gantk.plugin.loader import registry
from gantk.plugin.spec import Generator, Part, Problem, bind, options_help, options_model


def wrong(kind: str, value) -> tuple[tuple, str]:
    """The path and the text of the mistake in `value`."""
    with pytest.raises(Problem) as raised:
        bind(kind, value)
    return raised.value.path, str(raised.value.error)


class Sampler:
    """Takes one option of every type that a recipe can hold."""

    def __init__(
        self,
        context,
        *,
        count: int = 1,  # how many
        rate: float = 0.5,
        name_of: str = "x",
        flag: bool = False,
        mode: Literal["p", "q"] = "p",
        pair: tuple[float, float] = (0.5, 0.9),
        sides: list[int] = [1, 2],
        limit: float | None = None,
        inner: Generator = "unet",
    ):
        """Keeps nothing."""


@pytest.fixture
def sampler(monkeypatch):
    """`Sampler` registered as the augmentation 'sampler'."""
    from gantk.plugin.registry import Entry

    monkeypatch.setitem(registry().entries, ("augment", "sampler"), Entry("augment", "sampler", Sampler, "a test"))
    return Sampler


def test_a_bare_name_means_the_defaults_of_the_signature():
    bare, table = bind("optimizer", "adam"), bind("optimizer", {"name": "adam"})
    assert bare == table
    assert bare.options == {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.0}


def test_options_of_every_type_arrive_as_the_types_of_the_signature(sampler):
    options = {
        "count": 3,
        "rate": 2,
        "name_of": "y",
        "flag": True,
        "mode": "q",
        "pair": [1, 2.5],
        "sides": [4],
        "limit": 1,
    }
    bound = bind("augment", {"name": "sampler", **options}).options
    assert isinstance(bound["rate"], float) and bound["rate"] == 2.0  # a whole number may stand for a decimal
    assert bound["pair"] == (1.0, 2.5) and isinstance(bound["pair"], tuple)
    assert bound["sides"] == [4] and bound["flag"] is True and bound["mode"] == "q" and bound["limit"] == 1.0
    assert isinstance(bound["inner"], Part) and bound["inner"].name == "unet"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("count", "3", "integer"),
        ("count", 3.5, "integer"),
        ("count", True, "integer"),
        ("rate", "fast", "number"),
        ("rate", float("nan"), "finite number"),
        ("rate", float("inf"), "finite number"),
        ("flag", 1, "boolean"),
        ("flag", "yes", "boolean"),
        ("mode", "r", "'p' or 'q'"),
        ("name_of", 5, "string"),
        ("sides", 4, "list"),
    ],
)
def test_a_value_of_another_type_is_refused_and_quoted(sampler, key, value, words):
    import json

    path, text = wrong("augment", {"name": "sampler", key: value})
    assert path[0] == key
    assert words in text and json.dumps(value) in text


def test_a_wrong_element_of_a_list_is_found(sampler):
    path, text = wrong("augment", {"name": "sampler", "sides": [1, "two"]})
    assert path == ("sides", 1) and '"two"' in text
    path, _ = wrong("augment", {"name": "sampler", "pair": [0.1, 0.2, 0.3]})
    assert path == ("pair",)


def test_a_misspelt_option_names_the_nearest_and_all_others():
    path, text = wrong("generator", {"name": "unet", "wdth": 64})
    assert path == ("wdth",)
    assert "'unet' has no option 'wdth'" in text and "Did you mean 'width'?" in text and "depth" in text


def test_a_misspelt_name_names_the_nearest_and_what_there_is():
    _, text = wrong("generator", "unett")
    assert "there is no generator 'unett'" in text and "Did you mean 'unet'?" in text and "resnet" in text


def test_a_mistake_inside_a_part_of_a_part_keeps_its_path():
    path, text = wrong("method", {"name": "dualgan", "generator": {"name": "unet", "depth": "deep"}})
    assert path == ("generator", "depth")
    assert "integer" in text


def test_a_loss_that_cannot_play_the_part_is_refused_with_those_that_can():
    path, text = wrong("method", {"name": "dualgan", "adversarial": "l1"})
    assert path == ("adversarial",)
    assert "the loss 'l1' cannot be used here" in text and "Allowed: bce, hinge, ls, wgan_gp" in text


def test_binding_a_table_gives_back_the_table_with_its_defaults():
    table = bind("generator", {"name": "unet", "width": 8}).table()
    assert table["name"] == "unet" and table["width"] == 8 and table["depth"] == 5
    assert bind("generator", table).table() == table


def test_required_options_are_asked_for():
    def target(*, radius: float, side: int = 1):
        return radius, side

    assert options_model(target).model_fields["radius"].is_required()
    rows = options_help(target)
    assert [row[0] for row in rows] == ["radius", "side"] and rows[0][2] == "required"


@pytest.mark.parametrize(("kind", "name"), [pytest.param(*key, id="-".join(key)) for key in sorted(registry().entries)])
def test_every_registered_part_has_a_schema_a_summary_and_explained_options(kind, name):
    entry = registry().get(kind, name)
    model = options_model(entry.load())  # fails where a parameter has no annotation that pydantic can use
    assert entry.summary().endswith((".", ":")) and len(entry.summary()) > 15
    if all(not field.is_required() for field in model.model_fields.values()):
        part = bind(kind, name)
        assert bind(kind, part.table()) == part  # the written defaults are what the signature says
    for option, _, _, comment in options_help(entry.load()):
        assert comment or option in UNEXPLAINED, f"{kind} {name}: no comment beside '{option}'"


UNEXPLAINED = {"generator", "discriminator", "adversarial"}  # their names say it
