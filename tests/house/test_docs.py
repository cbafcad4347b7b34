"""What the documentation shows is so: commands and recipes are understood, pages run from top to
bottom.
"""

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import textwrap
import tomllib
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import click
import pytest
from browser import BROWSER, Browser
from click.exceptions import Exit
from page_data import prepared, shorten
from tiny import ROOT, python

from gantk import registry
from gantk.cli import cli
from gantk.errors import UserError
from gantk.plugin.loader import attach_commands
from gantk.plugin.settings import own_layouts
from gantk.plugin.spec import Table
from gantk.recipe import tables as recipe_tables
from gantk.recipe.load import Recipe, load_recipe
from gantk.runs.folder import RUN_FILES
from gantk_serve import rules
from gantk_serve.rules import load_rules

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*") if page.suffix in (".md", ".intro")),
]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
LANGUAGES = {"bash", "zsh", "fish", "python", "toml", "csv", "json", "lua", "text"}
# At most so many blocks are not run by a test: docker, several machines, hours.
MAX_BLOCKS_NOT_RUN = 30
BLOCK_SECONDS = 1800  # for one block


# A fenced block: its page, its language, the file that it is (title="..."), its text, why it is not
# run.
Block = namedtuple("Block", "page language title text not_run")


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT)).removeprefix("docs/")


def blocks(page: Path) -> list[Block]:
    fence = (
        r"(?:<!-- not run: ([^\n]*) -->\n\s*)?^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\2```$"
    )
    found = re.finditer(fence, page.read_text("utf-8"), re.M | re.S)
    return [Block(page, m[3], m[4] or "", textwrap.dedent(m[5]), m[1] or "") for m in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """The pages that are made from the code."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


# ---- what is shown is understood


def commands_of(text: str) -> list[list[str]]:
    """The words of every `gantk ...` in lines of a shell, behind python -m, srun or torchrun too."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for piece in re.split(r"\0(?:&&|\||;|>+)\0", "\0".join(words)):
            each = [word for word in piece.split("\0") if word]
            if (
                "gantk" in each
                and "docker" not in each
                and "pip" not in each
                and not each[0].startswith("_GANTK")
            ):
                found.append(each[each.index("gantk") + 1 :])

    return found


def understood(words: list[str]) -> None:
    """click's own complaint where `gantk WORDS` is no command, or one with another option, choice
    or argument.
    """
    attach_commands(cli)
    command = cli
    context = cli.make_context("gantk", list(words))
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_that_a_page_shows_is_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        for words in commands_of(block.text) if block.language in ("bash", "zsh", "fish") else []:
            understood(words)
        assert block.language in LANGUAGES

    for inline in re.findall(r"(?<!`)`gantk ([^`\n]+)`(?!`)", page.read_text("utf-8")):
        try:
            understood([word for word in shlex.split(inline) if word != "..."])
        # `gantk run` alone is a name, not a call
        except (click.MissingParameter, click.NoSuchOption, Exit) as error:
            assert not isinstance(error, click.NoSuchOption), inline


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if b.language in ("toml", "python")],
    ids=lambda b: page_name(b.page),
)
def test_every_recipe_and_python_block_of_a_page_is_valid(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if block.language == "python":
        compile(block.text, block.page.name, "exec")
    elif block.title == "rules.toml":
        Path("rules.toml").write_text(block.text, "utf-8")
        load_rules(Path("rules.toml"))
    elif block.title == "gantk.toml":
        Path("gantk.toml").write_text(block.text, "utf-8")
        assert own_layouts()
    # a package's own parts
    elif "project" not in (tables := tomllib.loads(block.text)) and "/src/" not in block.title:
        base = {} if "method" in tables else load_recipe("dualgan_t1t2").tables
        Recipe(
            base
            | {
                key: base[key] | value if isinstance(base.get(key), dict) else value
                for key, value in tables.items()
            }
        ).check()


def test_the_error_that_is_shown_is_the_one_that_comes(tmp_path, monkeypatch):
    (example,) = (
        block
        for block in BLOCKS
        if block.title == "mine.toml" and "wdth" in block.page.read_text("utf-8")
    )
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(example.text.replace("width", "wdth"), "utf-8")

    with pytest.raises(UserError) as caught:
        load_recipe("mine.toml").check()

    (shown,) = re.findall(r"^error  (method\.generator.*)$", example.page.read_text("utf-8"), re.M)
    assert str(caught.value) == shown


# ---- what is there is shown


def test_reference_lists_every_recipe_part_command_and_key(generated):
    import gantk

    def heads(page: str, pattern: str) -> set[str]:
        return set(re.findall(pattern, generated[page], re.M))

    attach_commands(cli)
    tables = [table for table in vars(recipe_tables).values() if hasattr(table, "model_fields")]
    entries = registry().entries.values()
    parts = {f"{entry.kind} {entry.name}" for entry in entries if entry.kind != "function"}

    assert heads("reference/recipes.md", r"^## (\w+)$") == {
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    }
    assert heads("reference/parts.md", r"^### (\w+ \w+)$") == parts
    assert heads("reference/cli.md", r"^### gantk (\w+)$") >= set(cli.commands)
    assert heads("reference/keys.md", r"^\| `(\w+)`") >= {
        key for table in tables for key in table.model_fields
    }
    service = [table for table in vars(rules).values() if table in Table.__subclasses__()]
    assert heads("reference/rules.md", r"^\| `(\w+)`") == {
        key for table in service for key in table.model_fields
    }
    assert heads("reference/python.md", r"^### (\w+)$") >= set(gantk.__all__)
    files = {name for name in RUN_FILES if ".json" in name}
    files |= {"samples/index.json", "samples/test/index.json", "meta.json", "state.json"}
    assert heads("reference/metrics-json.md", r"^## ([\w./]+)$") == files
    assert not heads("reference/metrics-json.md", r"^(\|.*\|  \|)$")  # every key has a meaning


def test_every_link_between_pages_leads_somewhere(generated):
    """To their places in a page mkdocs sees, where it builds the site."""
    written = {
        str(page.relative_to(DOCS)): page.read_text("utf-8")
        for page in PAGES[1:]
        if page.suffix == ".md"
    }
    for name, text in (
        generated | written | {"../README.md": (ROOT / "README.md").read_text("utf-8")}
    ).items():
        for place in re.findall(
            r"\]\((?!https?:)([^)\s#]+)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        ):
            target = os.path.normpath(os.path.join(os.path.dirname(name), place))
            made = target in generated or target.startswith(("pictures/real", "benchmarks/growth"))
            shown = made and name in generated  # a clone has only what is written
            assert shown or (DOCS / target).exists(), f"{name}: {place}"


def tables_of(text: str) -> list[list[str]]:
    """The lines of each table."""
    runs = re.findall(r"(?:^\|.*\n)+", text + "\n", re.M)
    return [table.splitlines() for table in runs]


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=page_name)
def test_tables_have_one_header_and_rows_of_one_length(page):
    for lines in tables_of(page.read_text("utf-8")):
        rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
        rules = [
            number
            for number, row in enumerate(rows)
            if all(re.fullmatch(r" ?:?-+:? ?", cell) for cell in row)
        ]
        assert rules == [1], lines[0]
        assert {len(row) for row in rows} == {len(rows[0])}, lines[0]


def test_the_readme_is_short_and_names_the_two_commands_first():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) < 150
    assert "make run" in "".join(lines[:10])
    assert [line for line in lines[:12] if line.startswith("make ")]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", "\n".join(lines), re.M)) <= targets


# ---- what is shown works


def test_few_blocks_are_not_run_and_each_says_why():
    assert len([block for block in BLOCKS if block.not_run]) <= MAX_BLOCKS_NOT_RUN
    assert not [page for page in PAGES if "<!-- not run -->" in page.read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(b.language in ("bash", "python") for b in blocks(p))],
    ids=page_name,
)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    needed = re.search(r"<!-- needs: (.*) -->", page.read_text("utf-8"))
    missing = [name for name in (needed[1].split() if needed else []) if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")

    monkeypatch.chdir(tmp_path)
    environment = prepared(page, tmp_path) | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    shorten(monkeypatch)
    try:
        run_blocks(page, environment)
    finally:
        for file in tmp_path.glob("*.pid"):  # what the page starts, if it failed before it ends it
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)


def run_blocks(page: Path, environment: dict[str, str]) -> None:
    names: dict = {"__name__": "page"}
    for block in blocks(page):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, "utf-8")
        elif block.language == "bash" and not block.not_run:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                env=os.environ | environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=BLOCK_SECONDS,
            )
            assert done.returncode == 0, (
                f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
        elif block.language == "python" and not block.not_run:
            exec(compile(block.text, page.name, "exec"), names)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it: a warning is an error."""
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install gantk[docs]")
    folder = tmp_path_factory.mktemp("site")
    python("-m", "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT).ok()
    return folder


@pytest.mark.slow
def test_site_works_offline(site):
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe|source)[^>]*\bsrc=[\"']?(?:https?:)?//", text
        ), page
        assert not re.findall(
            r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*(?:https?:)?//", text
        ), page

    assert "guides/translate" in (site / "search/search_index.js").read_text("utf-8")


@pytest.mark.slow
def test_no_line_of_code_breaks_inside_an_option(site):
    for page in site.rglob("*.html"):
        for code in re.findall(r"<code\b[^>]*>(.*?)</code>", page.read_text("utf-8"), re.S):
            free = re.sub(r'<span class="word">[^<]*</span>|<[^>]*>', " ", code)
            assert not re.findall(r"(?<![\w-])--[a-z][\w-]*", free), f"{page.name}: {code[:200]}"


def axe_script() -> str:
    """axe-core, which finds what people with impaired sight or hands cannot use."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    npm = shutil.which("npm")
    root = (
        subprocess.run([npm, "root", "--global"], capture_output=True, text=True) if npm else None
    )
    script = Path(root.stdout.strip() if root else "") / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("needs axe-core: npm install --global axe-core")
    return script.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    ["index", "start/your-scans", "guides/troubleshooting", "background/trust", "reference/keys"]
    + ["reference/recipes", "own-parts/method", "benchmarks/published-systems", "glossary"],
)
def test_a_page_can_be_read_by_everyone(site, page, tmp_path):
    """No complaint of axe in light and dark colours, on a screen and on a phone."""
    script = axe_script()
    with Browser(tmp_path, f"{(site / page).as_uri()}.html") as browser:
        for width, scheme in itertools.product((1280, 390), ("default", "slate")):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser("Emulation.setDeviceMetricsOverride", **size)
            calm = {"name": "prefers-reduced-motion", "value": "reduce"}
            browser("Emulation.setEmulatedMedia", features=[calm])
            browser.js(f"document.body.dataset.mdColorScheme = '{scheme}'")  # as its switch does
            browser.js(script)
            # the theme's script draws the buttons that copy code as landmarks without a name
            run = "axe.run({exclude: ['.md-code__nav']})"
            found = browser.js(f"{run}.then(found => JSON.stringify(found.violations))")
            complaints = [
                f"{rule['id']}: {node['target']}"
                for rule in json.loads(found)
                for node in rule["nodes"]
            ]

            assert complaints == [], f"{width} px, {scheme}"
            wide = "document.documentElement.scrollWidth"
            assert browser.js(wide) <= width, f"{page} is wider than {width} px"
