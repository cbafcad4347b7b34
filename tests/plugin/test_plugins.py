"""Plugins: one door for everyone, names that collide loudly, broken ones that stop nobody, and the
public names.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import click
import pytest
import tomli_w
from tiny import ROOT, draw_pictures, python, read_json, write_json

import gantk
from gantk import registry
from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.layouts import pairs_of, read
from gantk.cli import Commands
from gantk.data.sources.source import source_for
from gantk.errors import UserError
from gantk.lookup.options import options_help
from gantk.machine.runtime import start
from gantk.plugin import hookspecs
from gantk.plugin.loader import attach_commands, load, plugin_note
from gantk.plugin.registry import KINDS
from gantk.plugin.settings import disabled_plugins
from gantk.plugin.spec import bind
from gantk.recipe.load import all_recipes, load_recipe
from gantk.training.assemble import assemble

HOOK = "import click, gantk\n@gantk.hookimpl\ndef "
GENERATOR = HOOK + "gantk_register(add): add.generator('{name}', 'package.module:thing')"


def state(plugin: str) -> str | None:
    return next(found.problem for found in load().plugins if found.name == plugin)


# ---- what is found -------------------------------------------------------------------------------


def test_a_checkout_that_nobody_installed_finds_its_own_plugins(tmp_path):
    hidden = (
        "import importlib.metadata as metadata, sys\nevery ="
        " metadata.distributions\nmetadata.distributions = lambda: (one for one in every() if"
        f" one.name != 'gantk')\nsys.path = [{str(ROOT)!r}] + [p for p in sys.path if not"
        " p.endswith(('/plugins', '/benchmarks'))]\nsys.argv = ['gantk', 'plugins']\nfrom"
        " gantk.cli import main\nmain()\n"
    )
    said = python("-c", hidden, cwd=tmp_path).ok().out
    starts = [line.split()[:3] for line in said.splitlines()]
    assert ["translation", "gantk", "source"] in starts
    assert ["bench", "gantk", "source"] in starts
    assert "did not load" not in said


# ---- variants of a part --------------------------------------------------------------------------

VARIANT = """
import gantk
from gantk import registry

CycleGAN = registry().get("method", "cyclegan").load()

class Sharp(CycleGAN):
    def __init__(
        self,
        geometry,
        *,
        sharpness: float = 5.0,  # weight of the edges
        identity: float = 0.5,  # smaller than in the paper
        **options,
    ):
        super().__init__(geometry, identity=identity, **options)
        self.sharpness = sharpness

@gantk.hookimpl
def gantk_register(add): add.method("sharp", "variant:Sharp")
"""


def test_a_variant_of_a_method_takes_its_options_too(add_plugin):
    add_plugin("my-package", "variant", VARIANT)
    cyclegan = bind("method", "cyclegan").options
    ours = {"sharpness": 5.0, "identity": 0.5}
    assert bind("method", "sharp").options == cyclegan | ours
    asked = {"name": "sharp", "cycle": 3, "defense": 0.1, "generator": {"name": "unet", "depth": 2}}
    part = bind("method", asked)
    method = part(gantk.Geometry(2, (16, 16), {"a": 1, "b": 1}))
    assert (method.cycle_weight, method.identity_weight, method.sharpness) == (3.0, 0.5, 5.0)
    assert method.further.defense == 0.1
    comments = {name: comment for name, _, _, comment in options_help(part.target)}
    assert comments["sharpness"] == "weight of the edges"
    assert comments["identity"] == "smaller than in the paper"
    assert comments["generator"] == "both generators"
    assert "defense" in comments
    with pytest.raises(UserError, match="'sharp' has no option 'sharpnes'.*Did you mean"):
        bind("method", {"name": "sharp", "sharpnes": 1.0})


# ---- collisions and broken plugins ---------------------------------------------------------------


def test_duplicate_plugin_names_are_reported(add_plugin):
    add_plugin("first-package", "plugin_one", GENERATOR.format(name="net_one"), point="shared")
    add_plugin("second-package", "plugin_two", GENERATOR.format(name="net_two"), point="shared")
    problems = [plugin.problem for plugin in load().plugins if plugin.name == "shared"]

    assert problems == [
        None,
        "the distribution 'first-package' already has a plugin named 'shared'",
    ]
    assert "net_one" in registry()["generator"]
    assert "net_two" not in registry()["generator"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import gantk_no_such_module", "ModuleNotFoundError"),
        ("def half(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (HOOK + "gantk_register(add):\n    add.genrator('x', int)", "add.genrator"),
        (HOOK + "gantk_register(add):\n    add.loss('half', int)\n    1 / 0", "ZeroDivisionError"),
        (HOOK + "gantk_register(add, more): pass", "more"),
        (HOOK + "gantk_register(add): add.loss(int, 'x')", "needs a name and a part"),
        ("def gantk_register(add): pass", "lacks the decorator"),
        (
            HOOK + "gantk_step_loged(run): pass",
            "no hook gantk_step_loged. Did you mean 'gantk_step_logged'",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_its_siblings_load(add_plugin, source, words):
    add_plugin("broken-package", "a_broken_one", source)  # sorts ahead of its sibling
    add_plugin("good-package", "good_plugin", GENERATOR.format(name="mynet"))

    assert words in state("a_broken_one")
    assert words in registry().broken["a_broken_one"]
    assert state("good_plugin") is None
    assert registry().get("generator", "mynet")
    assert "half" not in registry()["loss"]  # all or nothing

    with pytest.raises(
        UserError, match=r"(?s)no generator 'lost'.*plugin 'a_broken_one' did not load"
    ):
        registry().get("generator", "lost")


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("generator", "X = 3", "not a class or a function"),
        (
            "generator",
            "class X:\n    def __init__(self): pass",
            "cannot be called with 3 arguments",
        ),
        ("loss", "def X(output, target): pass", "cannot be called with 0 arguments"),
        (
            "loss",
            "def X(*, inner: type = int): pass",
            "has an option whose type a recipe cannot hold",
        ),
        ("loss", "def Y(): pass", "cannot be loaded from 'my_plugin:X'"),
        (
            "loss",
            "def X(*, inner: 'Gone' = 1): pass",
            "has an option whose type a recipe cannot hold: NameError",
        ),
        ("loss", "def X(*, name: str = 'x'): pass", "an option cannot have the name 'name'"),
    ],
)
def test_an_authors_mistake_is_one_error_that_names_the_package(kind, code, words, add_plugin):
    add_plugin(
        "my-package",
        "my_plugin",
        f"{HOOK}gantk_register(add): add.{kind}('mine', 'my_plugin:X')\n{code}",
    )

    with pytest.raises(
        UserError, match=rf"the {kind} 'mine'.*{words}.*my_plugin.py.*offered by my-package"
    ):
        bind(kind, "mine")(*([1, 1, 2] if kind == "generator" else []))


def test_a_failing_format_or_source_is_skipped(add_plugin, tmp_path):
    parts = (
        "gantk_register(add):\n    add.format('f', 'my_plugin:F')\n    add.source('s',"
        " 'my_plugin:S')"
    )
    code = "class F: pass\nclass S:\n    rank = -9\n    def accepts(path): 1 / 0"
    add_plugin("my-package", "my_plugin", f"{HOOK}{parts}\n{code}")
    draw_pictures(tmp_path / "scans", 2)
    with pytest.warns(UserWarning, match="source 's' is ignored.*ZeroDivisionError.*my-package"):
        assert source_for(tmp_path / "scans")["name"] == "files"


def test_errors_of_plugins_name_the_plugin(add_plugin, capsys):
    add_plugin(
        "my-package", "my_plugin", HOOK + "gantk_commands(cli): cli.command('fail')(lambda: 1 / 0)"
    )
    attach_commands(group := Commands("gantk"))

    with pytest.raises(SystemExit):
        group(["fail"])

    said = capsys.readouterr().err
    assert "the plugin 'my_plugin' from my-package 1.0 raised this error, in " in said
    assert "my_plugin.py:3. The traceback is in " in said
    assert plugin_note(ValueError()) is None


@pytest.mark.parametrize("shape", [(48, 48, 3), (48, 48)])
def test_a_source_of_no_images_is_named_before_a_run(shape, add_plugin, tiny_recipe):
    code = f"""import numpy as np
from functools import partial
from gantk import Record
class S:
    def __init__(self, domains, dims, size):
        pass
    def records(self):
        read = partial(np.ones, {shape}, np.float32)
        return [Record(each, str(n), str(n), read) for each in "ab" for n in range(4)]
"""
    add_plugin(
        "my-package",
        "my_plugin",
        f"{HOOK}gantk_register(add): add.source('mine', 'my_plugin:S')\n{code}",
    )
    tiny_recipe["data"]["source"] = "mine"
    said = f"the source 'mine' gives an image of the shape {shape}"
    with pytest.raises(UserError, match=re.escape(said)):
        assemble(load_recipe(tiny_recipe).check(), start("cpu", "fp32"))


@pytest.mark.parametrize(
    "found", ["None", "[('a', 'x.png')]", "[Record('T1', 's', 'k', None)]", "[]"]
)
def test_a_source_without_records_is_named(found, add_plugin, tiny_recipe):
    code = f"def __init__(self, *more): pass\n    def records(self): return {found}"
    parts = "gantk_register(add): add.source('mine', 'my_plugin:S')"
    add_plugin(
        "my-package", "my_plugin", f"from gantk import Record\n{HOOK}{parts}\nclass S:\n    {code}"
    )
    tiny_recipe["data"]["source"] = "mine"

    with pytest.raises(UserError, match="the source 'mine'"):
        assemble(load_recipe(tiny_recipe).check(), start("cpu", "fp32"))


# ---- plugins that are not installed --------------------------------------------------------------


def test_a_run_names_the_plugin_that_it_needs(gantk, copied_run):
    record = read_json(copied_run / "environment.json")
    record["plugins"]["third_party"] = {"simgan": "simgan 0.1.0", "here": "pytest 9"}
    write_json(copied_run / "environment.json", record)
    recipe = copied_run / "recipe.toml"
    recipe.write_text(recipe.read_text("utf-8").replace('"dualgan"', '"simgan"'), "utf-8")

    for words in (["translate", copied_run, "in.png", "out.png"], ["resume", copied_run]):
        assert (
            "method: there is no method 'simgan'. This run needs the plugin simgan 0.1.0, which is"
            " not installed: pip install simgan, or pip install -e FOLDER if it is your own. ("
        ) in gantk(*words).refused()


# ---- what a part makes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "returned"), [("nn.Conv2d(1, 2, 1)", "(1, 2, 32, 32)"), ("Forgets()", "NoneType")]
)
@pytest.mark.parametrize("method", ["dualgan", "pix2pix"])
def test_a_generator_of_no_such_images_is_named_before_a_run(
    method, network, returned, add_plugin, gantk, tiny_recipe, tmp_path
):
    code = f"""from torch import nn
class Forgets(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 1, 1)
    def forward(self, x):
        super().forward(x)
def X(channels_in, channels_out, dims):
    return {network}"""
    parts = "gantk_register(add): add.generator('tinyres', 'my_plugin:X')"
    add_plugin("my-package", "my_plugin", f"{HOOK}{parts}\n{code}")
    tiny_recipe["method"] = {"name": method, "generator": "tinyres"}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(tiny_recipe), "utf-8")

    assert (
        f"method: '{method}' with method.generator: 'tinyres' returns {returned} for images of"
        " domain T2"
    ) in gantk(
        "run", tmp_path / "mine.toml", "--out", tmp_path / "run", "--device", "cpu"
    ).refused()
    assert not (tmp_path / "run").exists()


# ---- the hooks -----------------------------------------------------------------------------------


def test_every_hook_is_documented_and_tested():
    """Bundled plugins come through the same door as any other's, so that the tests of what they do
    are the hooks'. A report's section is another's alone: test_faulty_plugins.py adds some.
    """
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "gantk_spec")}
    folders = (ROOT / "plugins", ROOT / "tests" / "plugin")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    plugins = "".join(file.read_text("utf-8") for file in files)

    assert len(hooks) == 12

    for name, hook in hooks.items():
        assert f"{name}(" in plugins, f"no plugin stands on {name}"
        for parameter in inspect.signature(hook).parameters:
            described = rf"`{parameter}|^ +([\w, ]+, )?{parameter}[,:]"  # in prose or in Args
            assert re.search(described, inspect.getdoc(hook), re.M), (
                f"{name} does not say what '{parameter}' is"
            )


def test_hook_register_finds_recipe_packages(add_plugin):
    assert all(
        f"`{kind}`" in hookspecs.gantk_register.__doc__ for kind in KINDS if kind != "method"
    )

    recipes = "gantk_register(add):\n    add.recipes('my_recipes')\n    add.recipes('bare')"
    folder = add_plugin("my-package", "my_plugin", HOOK + recipes)
    for package, name in (("my_recipes", "one"), ("bare", "two")):
        (folder / package).mkdir()
        (folder / package / f"{name}.toml").write_text(
            "summary = 'mine'\n[method]\nname = 'dualgan'\n", "utf-8"
        )

    (folder / "my_recipes" / "__init__.py").touch()

    assert all_recipes()["one"][1] == "my-package"
    assert load_recipe("two").origin == "two.toml (bundled with my-package)"


def test_hook_commands_cannot_replace_a_command(add_plugin):
    group = click.Group("gantk")
    ours = click.Command("run")
    group.add_command(ours)
    command = HOOK + "gantk_commands(cli): cli.add_command(click.Command('{name}'))"
    add_plugin("failing-package", "failing", HOOK + "gantk_commands(cli): 1 / 0")
    add_plugin("greedy-package", "greedy", command.format(name="run"))
    add_plugin("good-package", "good_plugin", command.format(name="measure"))
    attach_commands(group)

    assert "measure" in group.commands
    assert group.commands["run"] is ours
    assert state("good_plugin") is None
    assert state("greedy") == "its command 'run' already exists"
    assert "ZeroDivisionError" in state("failing")
    assert "failing" in registry().broken


# ---- off and over --------------------------------------------------------------------------------


def test_gantk_disable_leaves_a_family_out_and_says_so(add_plugin, monkeypatch):
    monkeypatch.setenv("GANTK_DISABLE", "gantk_translation, gantk_style")
    load.cache_clear()

    assert "cyclegan" not in registry()["method"]
    assert "dcgan" in registry()["method"]
    with pytest.raises(UserError, match="'translation'.*GANTK_DISABLE switches it off"):
        registry().get("method", "cyclegan")


def test_gantk_toml_leaves_a_family_out(add_plugin, monkeypatch, tmp_path):
    recipe = tmp_path / "project" / "mine.toml"
    recipe.parent.mkdir()
    recipe.write_text('method = "dualgan"\n', "utf-8")
    settings = recipe.with_name("gantk.toml")
    settings.write_text('[plugins]\ndisable = ["gantk_translation"]\n', "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    with pytest.raises(UserError, match=r"'translation'.*project/gantk\.toml switches it off"):
        load_recipe(recipe).check()

    load_recipe("cyclegan_t1t2").check()  # that file is beside another recipe

    (tmp_path / "gantk").mkdir()
    settings.rename(tmp_path / "gantk" / "gantk.toml")
    load.cache_clear()

    with pytest.raises(UserError, match="'translation'.*switches it off"):
        load_recipe("cyclegan_t1t2").check()


def test_gantk_toml_keeps_the_line_of_a_hospital(add_plugin, tmp_path, monkeypatch):
    (tmp_path / "gantk.toml").write_text('[layouts]\nours = "{patient}/A{contrast}_x"\n', "utf-8")
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    paths = [f"{who}/A{contrast}_x.nii" for who in ("ann", "bob") for contrast in ("T1", "T2")]
    found = read(paths, ("T1", "T2"), ContrastWords(("T1", "T2")))

    assert registry().get("layout", "ours").owner == "gantk.toml"
    assert (found.layout, len(pairs_of(found.rows))) == ("{patient}/A{contrast}_x", 2)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("disable = []", "disable: unknown key. Allowed: plugins.disable"),
        ('[plugins]\noff = ["a"]', "plugins.off: unknown key"),
        ('[plugins]\ndisable = "gantk_app"', "plugins.disable: Input should be a valid list"),
        ("layouts.ours = 5", "layouts.ours: Input should be a valid string"),
        ("[plugins", "Expected ']' at the end of a table declaration"),
    ],
)
def test_wrong_gantk_toml_is_one_error(text, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gantk.toml").write_text(text, "utf-8")

    with pytest.raises(UserError, match=error):
        disabled_plugins()


def test_wrong_gantk_toml_ends_each_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gantk.toml").write_text("[plugins", "utf-8")
    done = python("-m", "gantk", "plugins")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err


def test_override_replaces_a_bundled_part_and_only_with_it(add_plugin):
    register = HOOK + "gantk_register(add): add.generator('unet', 'mine:UNet', override=True)"
    add_plugin("my-package", "mine", register)
    entry = registry().get("generator", "unet")

    assert entry.owner == "my-package"
    assert entry.replaced == "gantk"


def test_a_second_override_of_one_part_is_refused(add_plugin):
    register = HOOK + "gantk_register(add): add.generator('unet', '{}:UNet', override=True)"
    add_plugin("my-package", "mine", register.format("mine"))
    add_plugin("your-package", "yours", register.format("yours"))

    assert registry().get("generator", "unet").owner == "my-package"
    assert "'unet' is already offered by my-package" in state("yours")


# ---- public names: they resolve, stay what they are, and are all that bundled plugins use --------


def test_public_names_survive_importing_every_module():
    """A module gantk.run would take the place of the function gantk.run at its first import."""
    public = {name: getattr(gantk, name) for name in gantk.__all__}
    modules = [name for name, thing in public.items() if inspect.ismodule(thing)]
    assert [name for name in modules if not callable(public[name])] == []  # gantk.training is both
    for module in pkgutil.walk_packages(gantk.__path__, "gantk.", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(gantk, name) for name in gantk.__all__} == public
