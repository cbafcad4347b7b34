"""Pages of the site that are made from the code and the records: recipes, keys, parts, JSON files,
commands, Python, benchmarks.

mkdocs calls `on_files` (mkdocs.yml names this file as a hook); the tests call `pages`.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import textwrap
import tomllib
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
RECORDS = {  # pages that stand elsewhere in the repository -> where they stand on the site
    "benchmarks/results/quick.md": "benchmarks/every-recipe.md",
    "benchmarks/results/README.md": "benchmarks/measured.md",
    "benchmarks/results/quality.md": "benchmarks/quality.md",
    "benchmarks/results/published-systems.md": "benchmarks/published-systems.md",
    "benchmarks/results/published-items.md": "benchmarks/published-items.md",
    "benchmarks/results/published-future-work.md": "benchmarks/published-future-work.md",
    "benchmarks/results/misaligned-pairs.md": "benchmarks/misaligned-pairs.md",
    "benchmarks/results/ct-mr.md": "benchmarks/ct-mr.md",
    "benchmarks/results/tumours.md": "benchmarks/tumours.md",
    "benchmarks/results/images-from-noise.md": "benchmarks/images-from-noise.md",
    "benchmarks/results/real-scans.md": "benchmarks/real-scans.md",
    "benchmarks/results/missing-contrasts.md": "benchmarks/missing-contrasts.md",
    "benchmarks/results/shipped-model.md": "benchmarks/shipped-model.md",
    "benchmarks/results/input-checks.md": "benchmarks/input-checks.md",
    "benchmarks/results/speed.md": "benchmarks/speed.md",
    "benchmarks/results/trust.md": "benchmarks/trust.md",
    "benchmarks/results/service.md": "benchmarks/service.md",
    "benchmarks/peers.md": "benchmarks/peers.md",
}
PICTURES = {
    "benchmarks/results/real-scans.jpg": "pictures/real-scans.jpg",
}
MADE_FROM = {  # what pages of the site are made from, which links lead to in a clone
    "gantk/recipe/tables.py": "reference/keys.md",
    "gantk/plugin/builtins.py": "reference/parts.md",
    "gantk/__init__.pyi": "reference/python.md",
    "gantk/plugin/hookspecs.py": "reference/python.md",
    "gantk/plugin/public.py": "reference/python.md",
    "gantk/runs/results.py": "reference/metrics-json.md",
    "plugins/gantk_serve/rules.py": "reference/rules.md",
    "recipes": "reference/recipes.md",
}
SHIM = "https://unpkg.com/iframe-worker/shim"
MARKERS = {  # of pluggy, with docstrings for its own readers
    "hookimpl": "Marks a function as the implementation of the hook of its name. It is"
    ' `pluggy.HookimplMarker("gantk")`.',
    "hookspec": "Marks a function as the declaration of a hook. It is"
    ' `pluggy.HookspecMarker("gantk")`.',
}
TESTING = (
    "gantk.testing",
    ("MethodContract", "GeneratorContract", "DiscriminatorContract", "LossContract"),
)


def pages() -> dict[str, str]:
    """Markdown of every generated page, by its path on the site."""
    made = {
        "reference/recipes.md": recipes(),
        "reference/keys.md": keys(),
        "reference/rules.md": service_rules(),
        "reference/parts.md": parts(),
        "reference/metrics-json.md": json_files(),
    }
    made |= {"reference/cli.md": commands(), "reference/python.md": python()}
    return made | {target: record(source) for source, target in RECORDS.items()}


def on_files(files, config):
    """The hook: adds the generated pages and the pictures that they show."""
    from mkdocs.structure.files import File

    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    for source, uri in PICTURES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(text: str, page, config, files) -> str:
    """The hook: links to files elsewhere in the repository, which readers of a clone follow, lead to
    where these, or what is made from them, stand on the site.
    """
    here = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def link(match: re.Match) -> str:
        inside = posixpath.normpath(posixpath.join(here, match[1]))
        on_site = (RECORDS | PICTURES | MADE_FROM).get(inside)
        if on_site is None:
            return match[0]
        return f"]({posixpath.relpath(posixpath.join('docs', on_site), here)}{match[2] or ''})"

    return re.sub(r"\]\(([^)\s#]+)(#[^)\s]*)?\)", link, text)


def on_page_content(html: str, page, config, files) -> str:
    """The hook: code is wrapped between its words only, and a table can be scrolled by keys."""
    html = re.sub(r"<code\b[^>]*>.*?</code>", _keep_words, html, flags=re.S)
    html = html.replace("<table>", '<table tabindex="0">')
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", html)  # an empty cell heads nothing


MAX_UNBROKEN = 34  # characters; a longer word does not fit beside others on a phone
LEXED_OPTION = (
    r"--<span class=\"nb\">(\w+)</span>"  # Pygments takes the word of --set for a builtin
)


def _keep_words(code: re.Match) -> str:
    """A <code> element whose words with a hyphen or a slash stay on one line."""
    pieces = re.split(r"(<[^>]+>)", re.sub(LEXED_OPTION, r"--\1", code[0]))
    pieces[::2] = [re.sub(r"[^\s<]+", _keep_word, text) for text in pieces[::2]]
    return "".join(pieces)


def _keep_word(word: re.Match) -> str:
    breaks = "-" in word[0] or "/" in word[0]
    short = len(word[0]) <= MAX_UNBROKEN
    return f'<span class="word">{word[0]}</span>' if breaks and short else word[0]


def on_post_page(output: str, page, config) -> str:
    """The hook: a script that the theme would load from elsewhere comes from the site itself; what
    the theme leaves without a name of its own gets one, for readers of screens.
    """
    from mkdocs.utils import get_relative_url

    output = output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
    output = re.sub(
        r'aria-labelledby="__nav_[\d_]+_label"(?=[^>]*>\s*<label[^>]*>\s*<span[^>]*></span>\s*([^<]+?)\s*<)',
        r'aria-label="\1"',
        output,
    )
    return output.replace(SHIM, get_relative_url("iframe-worker.js", page.url))


def on_post_template(output: str, template_name: str, config) -> str:
    """The same for 404.html, which a server shows at any address."""
    return output.replace(f'<script src="{SHIM}"></script>', "")


def table(headers: tuple[str, ...], rows) -> str:
    """A Markdown table; what would break a cell is escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines) + "\n"


def cell(text: object) -> str:
    # what stands between backticks is shown as it is
    pieces = re.split(r"(`[^`]*`)", " ".join(str(text).split()))
    return "".join(
        p if i % 2 else p.replace("|", "\\|").replace("<", "&lt;") for i, p in enumerate(pieces)
    )


HEADS = ("key", "type", "default", "meaning")


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


# ---- recipes


def recipes() -> str:
    """Every recipe: its summary, what it needs, its settings, what was published and what was
    measured here.
    """
    from gantk.recipe.load import load_recipe
    from gantk_bench.rows import read_rows
    from gantk_bench.tables import markdown as bench_table

    rows = read_rows(ROOT / "benchmarks/results/quick.jsonl")
    groups: dict[str, list[str]] = {}
    overview = []
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        recipe = load_recipe(str(path)).check()
        own = [row for row in rows if row.recipe == path.stem]
        measured = bench_table(own).split("\n\n")[0].splitlines() if own else []
        # of all columns
        shown = [[line.strip("| ").split(" | ")[i] for i in (1, 2, 3, 5, 7)] for line in measured]
        measured = "\n".join(f"| {' | '.join(cells)} |" for cells in shown)
        text = path.read_text("utf-8")
        paper, tables = recipe.paper, tomllib.loads(text)
        said = [f"## {path.stem}", recipe.summary, needs(recipe, tables)]
        said += [f"Settings from: {paper['system']}." if "system" in paper else ""]
        domains = recipe.data.domains
        names = {"a_to_b": " to ".join(domains), "b_to_a": " to ".join(domains[::-1])}
        figures = {names.get(key, key): value for key, value in paper.get("published", {}).items()}
        said += [f"Published, other data: {flat(figures)}." if figures else ""]
        said += [
            f"Here, after a short training ([how](../benchmarks/every-recipe.md)):\n\n{measured}"
            if measured
            else ""
        ]
        said += [
            f'??? note "recipes/{path.name}"\n\n' + textwrap.indent(f"```toml\n{text}```", "    ")
        ]
        group = group_of(recipe)
        groups.setdefault(group, []).append("\n\n".join(part for part in said if part))
        overview.append((group, f"[`{path.stem}`](#{path.stem})", recipe.summary))
    overview.sort(key=lambda row: list(GROUPS).index(row[0]))
    head = (ROOT / "docs/recipes.intro").read_text("utf-8")
    body = [each for group in GROUPS for each in groups.get(group, [])]
    listed = table(("kind", "recipe", "what it is"), overview)
    return "\n\n".join([head, "## All recipes", listed, *body])


GROUPS = ("without pairs", "with pairs", "from noise", "style", "volumes")


def group_of(recipe) -> str:
    method = recipe.method.target
    if recipe.data.dims == 3 or recipe.data.neighbours:
        return "volumes"
    if recipe.method.name == "style":
        return "style"
    return (
        "from noise"
        if "image" in method.reads
        else "with pairs"
        if method.paired
        else "without pairs"
    )


def needs(recipe, tables: dict) -> str:
    """What the data must hold, how large the images are, and whether a GPU is advisable."""
    data, target = recipe.data, recipe.method.target
    noise = "image" in target.reads
    images = f"images of {data.domains[0]}" if noise else f"{' and '.join(data.domains)}"
    kind = "" if noise else ", pairs: both of the same anatomy" if target.paired else ", no pairs"
    size = " x ".join(map(str, data.size))
    facts = [f"{images}{kind}", f"{size} {'voxels' if data.dims == 3 else 'pixels'}"]
    facts += ["lesion masks"] if data.mask else []
    facts += ["a class for each image"] if data.labels else []
    facts += ["a patient may lack a contrast"] if data.missing == "mask" else []
    pretrained = (
        "pretrained" in str(tables.get("post", ""))
        or tables["method"].get("weights") == "pretrained"
    )
    facts += ["weights of VGG19, downloaded at first use"] if pretrained else []
    length = (
        f"{recipe.train.steps:,} steps"
        if recipe.train.steps
        else f"{recipe.train.epochs:,g} epochs"
    )
    facts += [f"{length}, batch {recipe.train.batch}"]
    profiles = tables.get("profile", {})
    advice = [f"`--profile {name}`" for name in profiles]
    gpu = " Its full settings want a GPU." if "cpu" in profiles else ""
    return (
        f"Needs: {'; '.join(facts)}." + gpu + (f" Profiles: {', '.join(advice)}." if advice else "")
    )


def flat(figures, prefix: str = "") -> str:
    from gantk_bench.tables import figure_name

    if not isinstance(figures, dict):
        return f"{prefix.strip()} {figures}"
    return ", ".join(flat(value, f"{prefix} {figure_name(key)}") for key, value in figures.items())


# ---- reference


def keys() -> str:
    """Every table of a recipe with its keys, as `gantk show TABLE` prints them."""
    from gantk.plugin.spec import Table
    from gantk.recipe.tables import CheckedRecipe

    said = [(ROOT / "docs/keys.intro").read_text("utf-8")]

    def walk(model: type[Table], path: str) -> None:
        said.extend(
            [f"## {path or 'recipe'}", inspect.getdoc(model), table(HEADS, key_rows(model))]
        )
        for name, field in model.model_fields.items():
            if inspect.isclass(field.annotation) and issubclass(field.annotation, Table):
                walk(field.annotation, f"{path}.{name}".lstrip("."))

    walk(CheckedRecipe, "")
    return "\n\n".join(said)


def key_rows(model) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of each key of a table."""
    from gantk.lookup.options import options_help

    return [
        (code(name), code(kind), code(default), about)
        for name, kind, default, about in options_help(model)
    ]


def service_rules() -> str:
    """Every table of a service's rules with its keys."""
    from gantk_serve import rules

    tables = {
        "the file": rules.Rules,
        "[orthanc]": rules.OrthancTable,
        "[service]": rules.ServiceTable,
        "[[rules]]": rules.RuleTable,
        "rules.when": rules.WhenTable,
    }
    said = [(ROOT / "docs/rules.intro").read_text("utf-8")]
    for heading, model in tables.items():
        said += [f"## {heading}", inspect.getdoc(model), table(HEADS, key_rows(model))]
    return "\n\n".join(said)


def parts() -> str:
    """Every registered part by kind, with its options."""
    from gantk.lookup.options import options_help
    from gantk.lookup.reference import description
    from gantk.plugin.loader import registry
    from gantk.plugin.loss_inputs import in_words, loss_inputs
    from gantk.plugin.registry import KINDS

    said = [
        "# Parts",
        "This page lists the parts that a recipe can name, by kind, with their options."
        " `gantk show KIND NAME` prints the same.",
    ]
    for kind, meaning in KINDS.items():
        said += [f"## {kind}", f"{meaning[0].upper()}{meaning[1:]}."]
        for entry in registry().of_kind(kind):
            target = entry.load()
            rows = [
                (code(name), code(type_), code(default), about)
                for name, type_, default, about in options_help(target)
            ]
            said += [f"### {kind} {entry.name}", prose(description(target))]
            if kind == "loss":
                said.append(f"It takes {in_words(loss_inputs(target))}.")
            said += [table(HEADS, rows) if rows else "It takes no options."]
    return "\n\n".join(said)


def json_files() -> str:
    """The keys of the JSON files of a run folder, from their schemas."""
    from gantk.data.split_json import RecordedImage, RecordedSplit
    from gantk.runs import results, schemas

    links = {  # schema -> (word, heading of its own table)
        results.Score: ("score", "Score"),
        results.Verdict: ("verdict", "Verdict"),
        results.PairedTest: ("test", "Test"),
        results.Speed: ("usage", "usage.json"),
        RecordedImage: ("image", "Image"),
        schemas.MappingState: ("mapping", "Mapping"),
    }

    def json_table(schema) -> str:
        rows = [(code(key), kind, about) for key, kind, about in json_rows(schema, links)]
        return table(("key", "type", "meaning"), rows)

    def with_own(schema, *tables) -> str:
        said = [json_table(schema)]
        for each in tables:
            said += [f"### {links[each][1]}", json_table(each)]
        return "\n\n".join(said)

    files = {
        "metrics.json": with_own(
            results.Results,
            *(results.Score, results.Verdict, results.PairedTest),
        ),
        "samples/test/index.json": (
            "By direction, the stored test images:\n\n" + with_own(results.StoredImage)
        ),
        "best.json": with_own(results.Choice),
        "log.jsonl": "One JSON object per line.\n\n" + with_own(schemas.LogLine),
        "usage.json": "`speed` in metrics.json has the same keys.\n\n" + with_own(results.Speed),
        "split.json": with_own(RecordedSplit, RecordedImage),
        "environment.json": with_own(schemas.Environment),
        "samples/index.json": with_own(schemas.SampleIndex),
        "meta.json": "In each checkpoint.\n\n" + with_own(schemas.Meta, schemas.MappingState),
        "state.json": "In each checkpoint.\n\n" + with_own(schemas.TrainingState),
    }
    said = [(ROOT / "docs/metrics-json.intro").read_text("utf-8")]
    for name, text in files.items():
        said += [f"## {name}", text]
    return "\n\n".join(said)


JSON_TYPES = {str: "text", float: "number", int: "integer", bool: "bool"}


def json_rows(schema, links: dict, prefix: str = ""):
    """Yield (dotted key, type, meaning) of a schema's keys; those of tables without a heading of
    their own follow their key.
    """
    for key, field in schema.model_fields.items():
        if field.exclude:
            continue
        kind, inner = json_type(field.annotation, links)
        path = f"{prefix}{field.serialization_alias or key}"
        yield path, kind, " ".join((field.description or "").split())
        if inner not in (None, schema):
            between = ".NAME" * len(re.findall(r"objects? of", kind)) + "[]" * ("list" in kind)
            yield from json_rows(inner, links, f"{path}{between}.")


def json_type(hint, links: dict):
    """The type of a JSON value in words, and the schema in it that has no heading of its own."""
    from types import GenericAlias, UnionType
    from typing import Annotated, Union, get_args, get_origin

    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return json_type(inner[0], links)
    if origin in (Union, UnionType):
        kinds = [each for each in inner if each is not type(None)]
        return json_type(kinds[0], links) if len(kinds) == 1 else ("any", None)
    if origin in (list, dict):
        assert isinstance(hint, GenericAlias)
        kind, schema = json_type(inner[-1], links)
        word = "list" if origin is list else "object"
        if kind == "any":
            return word, None
        plural = re.sub(r"^(\[?[a-z ]+?)(?=$|\]| of )", r"\1s", kind)
        return f"{word} of {plural}", schema
    if hint in links:
        word, heading = links[hint]
        anchor = re.sub(r"[^\w]+", "-", heading.replace(".", "")).lower()
        return f"[{word}](#{anchor})", None
    if inspect.isclass(hint) and hasattr(hint, "model_fields"):
        return "object", hint
    return JSON_TYPES.get(hint, "any"), None


def commands() -> str:
    """Every command with its examples, arguments and options, by section, read off click."""
    from gantk.cli import cli
    from gantk.plugin.loader import attach_commands
    from gantk.terminal import by_section

    attach_commands(cli)
    said = ["# Commands", "What `gantk COMMAND --help` prints, in the order of `gantk --help`."]
    root = click.Context(cli, info_name="gantk", **cli.context_settings)

    def describe(command: click.Command, words: tuple[str, ...], parent: click.Context) -> None:
        context = click.Context(
            command, info_name=words[-1], parent=parent, **command.context_settings
        )
        usage = " ".join(command.collect_usage_pieces(context))
        said.append(f"{'#' * (len(words) + 1)} {' '.join(words)}")
        said.append(prose(inspect.cleandoc(command.help or "")))
        examples = getattr(command, "examples", ())
        if examples:
            lines = "\n".join(examples)
            said.append(f"```text\n{lines}\n```")
        said.append(f"```text\n{' '.join(words)} {usage}\n```")
        options = [param for param in command.params if isinstance(param, click.Option)]
        records = [option.get_help_record(context) for option in options]
        rows = [(code(record[0]), record[1]) for record in records if record]
        if rows:
            said.append(table(("option", "meaning"), rows))
        for name, child in sorted(getattr(command, "commands", {}).items()):
            describe(child, (*words, name), context)

    for section, names in by_section(cli.commands).items():
        said.append(f"## {section}")
        for name in names:
            describe(cli.commands[name], ("gantk", name), root)
    return "\n\n".join(said)


def python() -> str:
    """The public names of `gantk`, from their signatures and docstrings."""
    import gantk
    from gantk.plugin.loader import registry
    from gantk.plugin.public import PUBLIC_MODULES

    said = [(ROOT / "docs/python.intro").read_text("utf-8")]
    said += ["## Modules for plugins", module_table(PUBLIC_MODULES)]
    of_plugins: dict[str, list[str]] = {}
    for (kind, _), entry in sorted(registry().entries.items()):
        if kind != "function":
            continue
        module, _, function = entry.target.partition(":")
        of_plugins.setdefault(module, []).append(function)
    public = gantk._PUBLIC | of_plugins
    for module, names in [*public.items(), TESTING, ("gantk.plugin.hookspecs", None)]:
        loaded = importlib.import_module(module)
        names = names or [name for name in vars(loaded) if name.startswith("gantk_")]  # the hooks
        said.append(f"## {module}")
        said.append(prose((inspect.getdoc(loaded) or "").split("\n\n")[0]))
        for name in names:
            thing = getattr(loaded, name, None)
            if thing is None:
                continue
            said.append(f"### {name}")
            said.append(MARKERS.get(name) or described(thing, name))
            members = vars(thing).items() if inspect.isclass(thing) else ()
            for member, value in members:
                value = getattr(value, "__func__", value)
                if inspect.isfunction(value) and not member.startswith("_") and value.__doc__:
                    said.append(f"**{name}.{member}**\n\n{described(value, member)}")
    return "\n\n".join(said)


def module_table(modules) -> str:
    """A table of modules with the first paragraphs of their docstrings."""
    rows = []
    for name in modules:
        docstring = inspect.getdoc(importlib.import_module(name)) or ""
        rows.append((code(name), " ".join(docstring.split("\n\n")[0].split())))
    return table(("module", "holds"), rows)


def described(thing, name: str) -> str:
    """Signature and docstring."""
    try:
        signature = f"{name}{inspect.signature(thing)}".replace(
            "<built-in function print>", "print"
        )
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)
        signature = re.sub(r"(: |-> )\"([^\"]*)\"", r"\1\2", signature)
        signature = re.sub(
            r"<(?:function|class) '?(?:[\w.]+\.)?(\w+)'?(?: at \w+)?>", r"\1", signature
        )
        signature = re.sub(r"<factory>|<function <lambda> at \w+>", "...", signature)
    except (TypeError, ValueError):
        signature = name
    if len(signature) > 100:
        signature = re.sub(
            r", (?=[\w*]+(?:[:=,)]|$))", ",\n    ", signature.replace("(", "(\n    ", 1)
        )
    shown = (
        ""
        if signature == name or "typing.Annotated" in signature
        else f"```text\n{signature}\n```\n\n"
    )
    return shown + prose(inspect.getdoc(thing) or "")


SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")


def prose(text: str) -> str:
    """A docstring as Markdown: `Args:` and `Raises:` become lists, `Example:` and other indented
    paragraphs blocks of code.
    """
    heading = rf"^({'|'.join(SECTIONS)}):\n"
    before, *rest = re.split(heading, text, flags=re.M)
    said = paragraphs(before)
    for name, content in zip(rest[::2], rest[1::2], strict=True):
        # what follows the indented lines of a section is text again
        inside = re.match(r"(?:[ \t]+\S[^\n]*(?:\n|\Z)|[ \t]*\n)*", content)[0]
        after = content.removeprefix(inside)
        inside = textwrap.dedent(inside).strip("\n")
        if name.startswith("Example"):
            said.append(f"```python\n{inside}\n```")
        elif name in ("Returns", "Yields"):
            said.append(f"**{name}** {escaped(inside)}")
        else:
            items = re.sub(r"^(\w[\w\\, ]*):", r"\n- **\1**:", escaped(inside), flags=re.M)
            said += [f"**{name}**", items]
        said += paragraphs(after)
    return "\n\n".join(said)


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a docstring as Markdown."""
    said = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        marked = block.startswith("\b\n")  # click: the lines of this paragraph stay as they are
        if marked or (block.startswith("    ") and not block.lstrip().startswith("* ")):
            plain = textwrap.dedent(block.removeprefix(chr(8)).strip(chr(10)))
            said.append(f"```text\n{plain}\n```")
        elif block.strip():
            said.append(escaped(block))
    return said


def escaped(text: str) -> str:
    """Text in which nothing but what stands between backticks is markup."""
    pieces = re.split(r"(``.*?``|`[^`\n]*`)", text)
    return "".join(
        piece if i % 2 else re.sub(r"(?<=\S)([*_])|([\[\]])", r"\\\1\2", piece).replace("<", "&lt;")
        for i, piece in enumerate(pieces)
    )


# ---- records


def record(source: str) -> str:
    """A page from elsewhere: links to pages of the site lead there, those to other files become
    their names.
    """
    text = (ROOT / source).read_text("utf-8")
    folder, target = (ROOT / source).parent, RECORDS[source]

    def link(match: re.Match) -> str:
        words, place = match[2], match[3]
        if "://" in place or place.startswith("#"):
            return match[0]
        try:
            inside = str((folder / place).resolve().relative_to(ROOT))
        except ValueError:
            return words
        written = (page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md"))
        known = {f"docs/{page}": str(page) for page in written} | RECORDS | PICTURES
        if inside in known:
            depth = "../" * target.count("/")
            return f"{match[1]}[{words}]({depth}{known[inside]})"
        return f"{words} (`{inside}`)"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, text)
