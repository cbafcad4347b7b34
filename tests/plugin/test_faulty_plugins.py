"""A third party's broken package costs one warning: it is named, switched off, and the rest works."""

import copy
import os

import pytest
from packages import put_distribution
from tiny import ROOT, python

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
    "leaving": "raise SystemExit(0)",
    "endless": "def f(): f()\nf()",
    "no_commands": COMMANDS + "cli.commands = None",
    "no_data": COMMANDS + "cli.commands['data'].commands = None",
    "no_check": COMMANDS + "cli.commands['data'].commands['check'] = 5",
    "no_run": COMMANDS + "del cli.commands['run']",
    "textless": WITHOUT_TEXT + HOOK + "gantk_commands(cli): raise E",
    "registering": HOOK + "gantk_register(add): raise SystemExit",
    "taken": HOOK + "gantk_register(add): add.generator('unet', 'a:B')",
}
# entry points that name no module
WRONG_POINTS = {"empty_point": "empty_point =", "three_words": "three_words = a b c"}


def command(site, *words, cwd):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "plugins", ROOT / "benchmarks", site)))
    return python("-m", "gantk", *words, cwd=cwd, PYTHONPATH=paths)


def test_each_broken_package_is_named_and_the_rest_works(tmp_path):
    site = tmp_path / "site"
    for name, source in BROKEN.items():
        put_distribution(site, f"pkg-{name}", name, source)
    for name, line in WRONG_POINTS.items():
        put_distribution(site, f"pkg-{name}", name, "")
        points = site / f"pkg_{name}-1.0.dist-info" / "entry_points.txt"
        points.write_text(f"[gantk]\n{line}\n", "utf-8")
    put_distribution(
        site, "pkg-good", "zgood", COMMANDS + "cli.add_command(click.Command('greet'))"
    )

    listed = command(site, "plugins", cwd=tmp_path).ok()
    rows = {line.split()[0]: line for line in listed.out.splitlines() if line.strip()}
    for name in (*BROKEN, *WRONG_POINTS):
        assert "did not load" in rows[name], name
    assert "did not load" not in rows["zgood"]

    worked = command(site, "show", "generator", "unet", cwd=tmp_path).ok()
    assert "Traceback" not in worked.err
    assert "width" in worked.out
    for name in (*BROKEN, *WRONG_POINTS):
        assert f"the plugin '{name}' from " in worked.err, name

    helped = command(site, "-h", cwd=tmp_path).ok()
    assert "greet" in helped.out
    assert "  run " in helped.out


@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
def test_a_package_of_unreadable_files_is_one_message(file, tmp_path):
    site = put_distribution(tmp_path / "site", "pkg-torn", "torn", "")
    (site / "pkg_torn-1.0.dist-info" / file).write_bytes(b"[gantk]\n\xff\xfe = a\n")
    refused = command(site, "recipes", cwd=tmp_path).refused()

    assert "an installed package is damaged" in refused
    assert "pkg_torn-1.0.dist-info" in refused
    assert "Traceback" not in refused


def test_a_plugin_with_a_part_of_a_used_name_is_switched_off(add_plugin):
    register = (
        HOOK + "gantk_register(add):\n    add.loss('x', 'a:B')\n    add.generator('unet', 'a:B')"
    )
    add_plugin("my-package", "mine", register)

    assert registry().get("generator", "unet").owner == "gantk"
    assert "'unet' is already offered by gantk" in registry().broken["mine"]
    assert "x" not in registry()["loss"]


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


@pytest.mark.parametrize(
    "fault",
    [
        "raise SystemExit(0)",
        "raise StopIteration",
        "raise MemoryError",
        "raise E",
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

        assert mine.function() is None
        assert plugin.problem is not None, hook
        assert "'mine' from my-package 1.0 is switched off" in capsys.readouterr().err


def test_a_hook_that_decides_may_refuse(add_plugin, tiny_recipe):
    refusal = "gantk_before_training(model): raise gantk.UserError('not with me')"
    add_plugin("my-package", "mine", HOOK + refusal)
    with pytest.raises(UserError, match="not with me"):
        toolkit.run(tiny_recipe, device="cpu", say=lambda line: None)
