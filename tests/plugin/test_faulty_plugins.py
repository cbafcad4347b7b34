"""A third party's broken package costs one warning: it is named, switched off, and the rest works."""

import copy
import os

import pytest
from packages import put_distribution
from tiny import ROOT, python, read_json

import gantk as toolkit
from gantk import registry
from gantk.errors import UserError
from gantk.plugin import faults, hookspecs
from gantk.plugin.loader import load
from gantk.report.build import write_report

HOOK = "import click, gantk\n@gantk.hookimpl\ndef "
COMMANDS = HOOK + "gantk_commands(cli): "
WITHOUT_TEXT = "class E(Exception):\n    def __str__(self): raise ValueError\n"
BROKEN = {
    "no_text": WITHOUT_TEXT + "raise E",
    "generator_exit": "raise GeneratorExit",
    "keyboard": "raise KeyboardInterrupt",
    "leaving": "raise SystemExit(0)",
    "own_base": "class B(BaseException): pass\nraise B",
    "endless": "def f(): f()\nf()",
    "no_commands": COMMANDS + "cli.commands = None",
    "number": COMMANDS + "cli.commands['zz'] = 5",
    "numbered": COMMANDS + "cli.commands[5] = click.Command('five')",
    "no_data": COMMANDS + "cli.commands['data'].commands = None",
    "no_check": COMMANDS + "cli.commands['data'].commands['check'] = 5",
    "no_run": COMMANDS + "del cli.commands['run']",
    "bad_help": COMMANDS + "cli.add_command(click.Command('zz', help=5))",
    "interrupting": COMMANDS + "raise KeyboardInterrupt",
    "textless": WITHOUT_TEXT + HOOK + "gantk_commands(cli): raise E",
    "registering": HOOK + "gantk_register(add): raise GeneratorExit",
    "wrapping": "import gantk\n@gantk.hookimpl(wrapper=True)\n"
    "def gantk_report_section(record):\n    return (yield)",
}
# entry points and metadata that are damaged
DAMAGED = {
    "empty_point": ("entry_points.txt", b"[gantk]\nempty_point =\n"),
    "three_words": ("entry_points.txt", b"[gantk]\nthree_words = a b c\n"),
    "nameless": ("METADATA", b"Metadata-Version: 2.1\nVersion: 1.0\n"),
    "binary": ("METADATA", b"\xff\xfe\x00"),
}


def command(site, *words, cwd):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "plugins", ROOT / "benchmarks", site)))
    return python("-m", "gantk", *words, cwd=cwd, PYTHONPATH=paths)


def test_each_broken_package_is_named_and_the_rest_works(tmp_path):
    site = tmp_path / "site"
    for name, source in BROKEN.items():
        put_distribution(site, f"pkg-{name}", name, source)
    for name, (file, content) in DAMAGED.items():
        put_distribution(site, f"pkg-{name}", name, "")
        (site / f"pkg_{name}-1.0.dist-info" / file).write_bytes(content)
    put_distribution(
        site, "pkg-good", "zgood", COMMANDS + "cli.add_command(click.Command('greet'))"
    )

    listed = command(site, "plugins", cwd=tmp_path).ok()
    rows = {line.split()[0]: line for line in listed.out.splitlines() if line.strip()}
    for name in (*BROKEN, *DAMAGED):
        assert "did not load" in rows[name], name
    assert "did not load" not in rows["zgood"]

    worked = command(site, "show", "generator", "unet", cwd=tmp_path).ok()
    assert "Traceback" not in worked.err
    assert "width" in worked.out
    for name in (*BROKEN, *DAMAGED):
        assert f"the plugin '{name}' from " in worked.err, name

    helped = command(site, "-h", cwd=tmp_path).ok()
    assert "greet" in helped.out
    assert "  run " in helped.out


def test_a_package_with_unreadable_entry_points_is_one_message(tmp_path):
    site = put_distribution(tmp_path / "site", "pkg-torn", "torn", "")
    (site / "pkg_torn-1.0.dist-info" / "entry_points.txt").write_bytes(b"[gantk]\n\xff\xfe = a\n")
    refused = command(site, "recipes", cwd=tmp_path).refused()

    assert "the package 'pkg-torn' is damaged" in refused
    assert "Traceback" not in refused


def test_a_second_part_of_a_bundled_name_is_left_out_and_named(add_plugin, capsys):
    register = (
        HOOK + "gantk_register(add):\n    add.generator('unet', 'a:B')\n    add.loss('x', 'a:B')"
    )
    add_plugin("my-package", "mine", register)

    assert registry().get("generator", "unet").owner == "gantk"
    assert registry().get("generator", "unet").owner == "gantk"
    assert capsys.readouterr().err.count("That of my-package is left out") == 1
    assert registry().get("loss", "x").owner == "my-package"


WITHOUT = {
    "baseline": (
        "add.baseline('mine', 'mine:made')\ndef made(pairs, dims, low, high, runtime): pass",
        {"regression": 2},
        "'mine' has no option 'steps'",
    ),
    "metric": (
        "add.metric('mine', Mine)\nfrom gantk.metrics.pairs import PairMetric\n"
        "class Mine(PairMetric):\n    name, unit, higher_is_better, in_mask = 'mine', '', None, None\n"
        "    def _score(self, output, reference, mask): return 5",
        {"metrics": ["mine"]},
        "the metric 'mine' returns int for 2 images",
    ),
    "metric of sets": (
        "add.metric('mine', Mine)\nfrom gantk.metrics.sets import SetMetric\nclass Mine(SetMetric):\n"
        "    name, unit, higher_is_better, definition = 'mine', '', None, 'mine'\n"
        "    def __init__(self, data_range, dims): pass\n"
        "    def __call__(self, train, test, fake): return 5.0",
        {"metrics": ["mine"]},
        "the metric 'mine' returns float",
    ),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_part_that_cannot_score_is_an_error_before_training(
    kind, add_plugin, tiny_recipe, tmp_path
):
    source, evaluate, says = WITHOUT[kind]
    add_plugin("my-package", "mine", f"{HOOK}gantk_register(add):\n    {source}")
    recipe = copy.deepcopy(tiny_recipe)
    recipe["evaluate"] = recipe.get("evaluate", {}) | evaluate
    with pytest.raises(UserError, match=says):
        toolkit.predict(recipe, device="cpu", say=print)
    if kind == "metric of sets":
        return  # these are tried by `--try` alone, as some take minutes
    with pytest.raises(UserError, match=says):
        toolkit.run(recipe, out=tmp_path / "run", device="cpu")

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    ["result.metrics.clear(); 1 / 0", "result.x = object()", "result.metrics['a_to_b'] = 5"],
)
def test_scores_that_a_plugin_damages_are_kept(change, add_plugin, copied_run):
    before = read_json(copied_run / "metrics.json")
    add_plugin("my-package", "mine", HOOK + f"gantk_images_scored(result): {change}")
    said: list[str] = []
    toolkit.evaluate(copied_run, device="cpu", say=said.append)

    after = read_json(copied_run / "metrics.json")
    assert after["metrics"] == before["metrics"]
    assert any(line.startswith("warning  ") and "is switched off" in line for line in said)


@pytest.mark.parametrize(
    "returned",
    [
        "1 / 0",
        "exit()",
        "5",
        "[5]",
        "{'folder': '/nowhere', 'template': 'x'}",
        "{'template': 'x'}",
        "{'folder': __file__.rpartition('/')[0], 'template': 'wrong.j2'}",
    ],
)
def test_a_failing_section_is_left_out_of_the_report(returned, add_plugin, copied_run, capsys):
    folder = add_plugin(
        "my-package", "mine", HOOK + f"gantk_report_section(record): return {returned}"
    )
    (folder / "wrong.j2").write_text("{{ nothing.of.this }}", "utf-8")
    (copied_run / "report.html").unlink()
    write_report(copied_run)

    assert "</html>" in (copied_run / "report.html").read_text("utf-8")
    assert "the plugin 'mine' from my-package 1.0 is switched off" in capsys.readouterr().err
    assert [each.problem for each in load().plugins if each.name == "mine"] != [None]


HOOKS = [
    name
    for name, value in vars(hookspecs).items()
    if hasattr(value, "gantk_spec") and name not in faults.LOADING_HOOKS
]
# hooks whose results nobody uses, or whose use fails by name
UNCHECKED = (
    "gantk_name_results",
    "gantk_load_model",
    "gantk_step_logged",
    "gantk_images_scored",
    "gantk_before_training",
    "gantk_training_ended",
)


@pytest.mark.parametrize(
    "fault",
    [
        "raise SystemExit(0)",
        "raise GeneratorExit",
        "raise StopIteration",
        "raise MemoryError",
        "raise E",
        "raise BaseException",
        "return 5",
    ],
)
def test_every_hook_may_fail(fault, add_plugin, capsys):
    hooks = "".join(f"@gantk.hookimpl\ndef {hook}(): {fault}\n" for hook in HOOKS)
    add_plugin("my-package", "mine", f"import gantk\n{WITHOUT_TEXT}{hooks}")
    (plugin,) = [each for each in load().plugins if each.name == "mine"]
    for hook in HOOKS:
        plugin.problem = None
        implementations = getattr(load().hook, hook).get_hookimpls()
        (mine,) = [each for each in implementations if each.plugin_name == "mine"]

        returned = mine.function()
        if fault == "return 5" and hook in UNCHECKED:
            assert returned == 5
        else:
            assert returned is None
            assert plugin.problem is not None, hook
            assert "'mine' from my-package 1.0 is switched off" in capsys.readouterr().err


def test_a_hook_that_decides_may_refuse(add_plugin, tiny_recipe):
    refusal = "gantk_before_training(model): raise gantk.UserError('not with me')"
    add_plugin("my-package", "mine", HOOK + refusal)
    with pytest.raises(UserError, match="not with me"):
        toolkit.run(tiny_recipe, device="cpu", say=lambda line: None)
