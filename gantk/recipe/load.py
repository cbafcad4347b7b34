"""Reads, overrides and checks recipes. A recipe is a TOML file that defines what to train, on which
data, how, and how to score it.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import create_model

from gantk.errors import UserError, did_you_mean, expect_format, join_first, one_line, reading_file
from gantk.files import open_file
from gantk.plugin.loader import registry, use_settings_beside
from gantk.plugin.registry import NO_SUCH_PART
from gantk.plugin.spec import Part, Table, check, options_model, plain, toml
from gantk.recipe.tables import (
    FORMAT,
    MAX_DEPTH,
    MAX_FILE_BYTES,
    CheckedRecipe,
    DataTable,
    FastTable,
)

# Keys of earlier versions -> the current key, with the current values where these changed.
RENAMED: dict[str, str | tuple[str, dict]] = {
    **{
        f"train.{name}": f"train.fast.{name}"
        for name in ("channels_last", "fused", "kernels", "benchmark")
    },
    "train.batched": "train.fast.batched_forward",
    "train.allocator": ("train.fast.keep_memory", {"keep": True, "system": False}),
    "train.capture": ("train.fast.cuda_graph", {"auto": True, "off": False}),
    "data.source.channels": "data.channels",
    # of methods that have the new key and not the old one
    "method.structure": "method.local_ncc",
    "method.flatness": "method.flat_region",
    "method.texture": "method.noise_floor",
    "method.coarse": "method.low_res_warmup",
}

# Keys that went, with the value at which a recipe is the same without them.
GONE = {
    "train.patience": 0,
    "train.fast.fused": True,
    "train.fast.benchmark": True,
    "data.split.file": "",
    "method.critic": 1,
    "method.generator.down": "stride",  # of attention_unet; the default of others
}
# What takes the place of such a key.
INSTEAD = {
    "data.split.file": "give the images as a table with a column split: `gantk data check SCANS"
    " --table scans.csv` writes one, and --data scans.csv trains on it"
}

# Kinds of errors for what a run may have and this version of gantk lacks, which is left out. A
# training that goes on needs its parts.
LACKING = ("extra_forbidden", NO_SUCH_PART)
LACKING_IN_TRAINING = LACKING[:1]
SOURCE = ("data", "source")
MAX_LEFT_OUT = 100  # each costs a check of all tables

TOO_DOTTED = re.compile(
    r"""(?<![\w-])(?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[\w-]+|"[^"\n]*"|'[^'\n]*')){32}"""
)

NO_TOML = (
    "This value is not valid TOML: put quotes around texts and close all brackets, as in"
    ' ["T1", "T2"]'
)

Settings = Iterable[str] | Mapping[str, Any]  # ["train.steps=2"] or {"train.steps": 2}


def with_setting(settings: Settings, key: str, value: Any) -> Settings:
    """Settings with one more."""
    if isinstance(settings, Mapping):
        return {**settings, key: value}
    return [*settings, f"{key}={json.dumps(value)}"]


resolved = plain  # of a checked recipe: tables that TOML can hold, with every default filled in


@dataclass
class Recipe:
    """The text and the tables of a recipe, before its parts are built.

    Example:

        recipe = gantk.load_recipe("dualgan_t1t2").override({"train.steps": 200})
        model = recipe.check()

    `origin` is the name of the recipe in messages.
    """

    tables: dict[str, Any]
    name: str = "recipe"
    origin: str = "recipe"
    text: str = ""
    # dotted key -> which option of the command line set it
    overridden: dict[str, str] = field(default_factory=dict)
    # dotted key -> its value as typed on the command line
    texts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # notes for the user on changes to the recipe
    # old key -> a note for the user on its current name
    notes: dict[str, str] = field(default_factory=dict)
    profile: str = ""  # the profile that was applied, or several: "cpu,by_class"
    # kinds of errors whose keys, or parts of a list, `check` leaves out with a note
    leaves_out: tuple[str, ...] = ()
    # of a run: says which plugins of others it was trained with and are not installed
    lacking_plugins: Callable[[], str] = str

    def override(self, settings: Settings, profile: str | None = None) -> Recipe:
        """Return a copy with other values.

        Args:
            settings: keys and values, as `set` of `gantk.run`. They are applied last.
            profile: the table `[profile.NAME]` of the recipe to apply first, or several in this
                order: "cpu,by_class".

        Raises:
            UserError: the profile or a key does not exist, or a value cannot be read.
        """
        recipe = copy.deepcopy(self)
        recipe._rename(recipe.tables)
        profiles = mapping(recipe.tables.pop("profile", {}))
        for name in profile.split(",") if profile is not None else ():
            recipe._apply_profile(name.strip(), profiles)
        if profile is not None:
            recipe.profile = profile

        for setting, (key, value) in _parse_settings(settings):
            recipe._apply_setting(key, value, setting, typed=not isinstance(settings, Mapping))

        recipe._rename(recipe.tables)
        return recipe

    def _apply_profile(self, name: str, profiles: dict[str, Any]) -> None:
        """Merge the table of a profile into the recipe's tables."""
        known = {key: changes for key, changes in profiles.items() if isinstance(changes, dict)}
        if name not in known:
            raise UserError(
                f"there is no profile '{name}'",
                where=self.origin,
                allowed=known or "none",
                remedy=did_you_mean(name, known),
            )

        changes = known[name]
        for path in leaves(changes):
            where = place(self.text, self.origin, ("profile", name, *path))
            self.overridden[".".join(path)] = where

        self._rename(changes, ("profile", name))
        _drop_other_length(self.tables, changes.get("train"))
        _merge(self.tables, changes)

    def _apply_setting(self, old_key: str, old_value: Any, setting: str, *, typed: bool) -> None:
        """Set a dotted key; `typed`: `setting` is the text of the command line."""
        where = f"--set {setting[:99]}"
        key, value = self._current_setting(old_key, old_value)
        if typed:
            self.texts[key] = setting.partition("=")[2].strip()
        if key in ("train.steps", "train.epochs") and value is not None:
            _drop_other_length(self.tables, {key.removeprefix("train."): value})

        self.overridden[_put(self.tables, key, value, setting)] = where

    def _current_setting(self, key: str, value: Any) -> tuple[str, Any]:
        """A setting's current key and value."""
        renamed = RENAMED.get(key, key)
        if renamed == key or self._is_option(key):
            return key, value

        new, values = renamed if isinstance(renamed, tuple) else (renamed, {})
        if key.startswith("method.") and not self._is_option(new):
            return key, value

        self.notes[key] = f"{key} is now {new}"
        return new, values.get(value, value) if isinstance(value, str) else value

    def _is_option(self, key: str) -> bool:
        """Whether the recipe's method or data source has an option of this name."""
        *parents, last = key.split(".")
        kind = {"method": "method", "data.source": "source"}.get(".".join(parents))
        if kind is None:
            return False
        part = _at(self.tables, parents)
        name = part.get("name") if isinstance(part, Mapping) else part
        try:
            return last in options_model(registry().get(kind, str(name)).load()).model_fields
        except UserError:  # `check` will raise it
            return False

    def _rename(self, tables: dict[str, Any], inside: tuple[str, ...] = ()) -> None:
        """Move values of old keys to the current keys, in place; `inside` are the keys of these
        tables in the text.
        """
        for old in RENAMED:
            *parents, last = old.split(".")
            table = mapping(_at(tables, parents))
            if last not in table:
                continue

            new, value = self._current_setting(old, table[last])
            if new == old:
                continue

            del table[last]
            # The current key wins where both are set.
            if tuple(new.split(".")) not in leaves(tables):
                _put(tables, new, value, f"{old}={value}")
                self.overridden[new] = place(self.text, self.origin, (*inside, *parents, last))

        for key, meaningless in GONE.items():
            *parents, last = key.split(".")
            table = mapping(_at(tables, parents))
            if table.get(last) == meaningless:
                del table[last]

    def check(self) -> CheckedRecipe:
        """Check every key, name and type, and bind the parts.

        Returns:
            The checked recipe, a gantk.recipe.tables.CheckedRecipe.

        Raises:
            UserError: something is wrong. The message has the key, its line and the nearest valid
                name.
        """
        tables = copy.deepcopy(self.tables)
        tables.pop("profile", None)
        self._rename(tables)
        version = tables.get("format", FORMAT)
        if isinstance(version, int):
            expect_format("this recipe", version, FORMAT, self._place(("format",)))

        model = self._bind_tables(CheckedRecipe, tables)
        if (model.train.steps is None) == (model.train.epochs is None):
            what = "both train.steps and train.epochs are given"
            if model.train.steps is None:
                what = "neither train.steps nor train.epochs is given"
            raise UserError(
                what,
                where=self._place(("train",)),
                remedy="set one of the two, for example train.steps = 2400",
            )

        return model

    def data_table(self) -> DataTable:
        """The checked [data] table. The recipe may lack the other tables."""
        alone = create_model("DataAlone", __base__=Table, data=(DataTable, ...))
        return self._bind_tables(alone, self.tables).data

    def _bind_tables(self, model: type, tables: dict[str, Any]) -> Any:
        """The tables as an instance of `model`; unquoted values of `--set` become strings where a
        key needs one.
        """
        texts = dict(self.texts)
        lacking: list[str] = []
        gone: Part | None = None
        while True:
            try:
                bound = check(model, tables, "the recipe")
                break
            except UserError as error:
                if self._may_leave_out(error) and len(lacking) < MAX_LEFT_OUT:
                    lacking.append(_take_out(tables, error.path))
                    continue
                if error.kind == NO_SUCH_PART and (lacking_plugins := self.lacking_plugins()):
                    error.allowed, error.remedy = None, lacking_plugins
                if error.path == SOURCE and error.kind in self.leaves_out:
                    source = tables["data"].pop("source")
                    gone = _gone_source(source, at_its_key(error, self._place))
                    continue
                key = ".".join(map(str, error.path))
                error.remedy = INSTEAD.get(key, error.remedy)
                typed = texts.pop(key, "")
                if typed and error.kind == "string_type":
                    _put(tables, key, typed, typed)
                    continue
                if typed.startswith(("[", "{")) and typed == _at(tables, error.path):
                    error.remedy = ". ".join(filter(None, [error.remedy, NO_TOML]))
                elif typed and error.kind in ("list_type", "tuple_type"):
                    error.remedy = f"Write --set '{key}={toml(_as_list(typed))}'"
                raise at_its_key(error, self._place) from None

        if gone:
            bound.data.source = gone
        if lacking:
            _say_once(
                f"{self.origin} has {', '.join(lacking)}, which this version of gantk does not"
                " have. These are left out: where one of them changed results, they are not those"
                " of the version that made the run"
            )
        return bound

    def _may_leave_out(self, error: UserError) -> bool:
        """Whether an error is for an option, or a part of a list, that `leaves_out` covers: no
        post-step, as results are not the run's without it.
        """
        in_list = isinstance(next(reversed(error.path), None), int)
        is_spare = in_list and error.path[0] != "post"
        return error.kind in self.leaves_out and (is_spare or error.kind != NO_SUCH_PART)

    def _place(self, path: tuple) -> str:
        """`file:line` of a key, or the command-line option that set it."""
        for depth in range(len(path), 0, -1):
            dotted = ".".join(map(str, path[:depth]))
            if dotted in self.overridden:
                return self.overridden[dotted]
        return place(self.text, self.origin, path)


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """Load a recipe.

    Args:
        source: a path, the name of a bundled recipe or of one from a plugin, a dictionary of
            tables, or a Recipe.

    Raises:
        UserError: the recipe does not exist or is not valid TOML. `Recipe.check` checks its keys.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return Recipe(dict(source))

    path, origin = find_recipe(str(source))
    use_settings_beside(path.absolute().parent)
    text, tables = read_toml(path, origin, "recipe", "`gantk recipes`")
    return Recipe(tables, path.stem, origin, text)


def read_toml(
    path: Path, origin: str, kind: str, others: str, folder: Path | None = None
) -> tuple[str, dict[str, Any]]:
    """The text and the tables of a TOML file, `origin` in errors; UserError tells where `others` to
    compare are, and if the file is not one of `folder`.
    """
    remedy = f"compare it with a {kind} from {others}"
    with reading_file(origin, "TOML", remedy=remedy):
        with open_file(path, folder) as file:
            content = file.read(MAX_FILE_BYTES + 1)
        # Windows editors write a byte-order mark
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        if len(content) > MAX_FILE_BYTES or TOO_DOTTED.search(text):
            # parsing would take minutes, or all memory
            raise ValueError(
                f"it is longer than {MAX_FILE_BYTES:,} bytes, or its tables are nested deeper than"
                f" {MAX_DEPTH} levels"
            )
        return text, tomllib.loads(text)


def find_recipe(name: str) -> tuple[Path, str]:
    """(file, its name in messages): the path as typed, else a bundled recipe, else a plugin's."""
    typed = Path(name)
    if typed.is_file():
        return typed, name

    known = all_recipes()
    stem = re.sub(r"\.toml$", "", re.sub(r"^(\./)?recipes/", "", name))
    if stem in known:
        path, owner = known[stem]
        return path, f"{stem}.toml (bundled with {owner})"
    if typed.is_dir():
        raise UserError(
            f"'{name}' is a folder",
            remedy="name a recipe file; to continue a run, use `gantk resume RUN`",
        )

    meant = _recipes_of(stem, known) or did_you_mean(Path(stem).name, known)
    raise UserError(
        f"there is no recipe '{name}'",
        allowed="a path or the name of a recipe",
        remedy=" ".join(filter(None, [meant, "See `gantk recipes`"])),
    )


def _recipes_of(method: str, known: Mapping[str, tuple[Path, str]]) -> str | None:
    """`The recipes of cyclegan are ...`; None where this is no method's name, or no recipe has it."""
    found = []
    for name, (path, _) in known.items():
        table = mapping(tomllib.loads(path.read_text("utf-8")).get("method"))
        if table.get("name") == method:
            found.append(name)
    found.sort(key=lambda name: (not name.startswith(method), len(name)))
    return f"The recipes of {method} are {join_first(found, most=8)}." if found else None


def all_recipes() -> dict[str, tuple[Path, str]]:
    """name -> (file, distribution) of every bundled and plugin recipe; the bundled ones win."""
    # the wheel keeps them inside the package, a checkout beside it
    inside = Path(__file__).parents[1] / "recipes"
    bundled = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    own = {path.stem: (path, "gantk") for path in sorted(bundled.glob("*.toml"))}
    return files_of(registry().packages["recipes"]) | own


def files_of(
    packages: Iterable[tuple[str, str]],
    wanted: Callable[[Path], bool] = lambda path: path.suffix == ".toml",
) -> dict[str, tuple[Path, str]]:
    """name -> (path, distribution) of the `wanted` files, by default TOML, in packages: (package,
    distribution).

    The first package with a name wins.
    """
    paths: dict[str, tuple[Path, str]] = {}
    for package, owner in packages:
        files = [Path(str(file)) for file in importlib.resources.files(package).iterdir()]
        for path in sorted(filter(wanted, files)):
            paths.setdefault(path.name.removesuffix(".toml"), (path, owner))

    return paths


# ---- the place of a mistake


def at_its_key(error: UserError, place_of: Callable[[tuple], str]) -> UserError:
    """Add the dotted key, and the place `place_of(path)`, to an error inside a table; returns the
    error.
    """
    path = tuple(key for key in error.path if not isinstance(key, int))
    dotted = path
    if error.kind == "extra_forbidden":
        dotted = path[:-1]
    if dotted:
        error.what = f"{'.'.join(map(str, dotted))}: {error.what}"
    return error.at(place_of(path))


def place(text: str, origin: str, path: tuple) -> str:
    """`file:line` of a key, or only the file if the text lacks the key."""
    line = find_line(text, path)
    return f"{origin}:{line}" if line else origin


def find_line(text: str, path: tuple) -> int | None:
    """The line of a TOML text that holds the key at `path`: exact, or the deepest table or key
    found on the way.
    """
    best = None
    best_depth = 0
    wanted = tuple(map(str, path))
    for key, number, _ in key_lines(text):
        if wanted[: len(key)] == key and len(key) > best_depth:
            best = number
            best_depth = len(key)

    return best


def key_lines(text: str) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Yield (dotted key as a tuple, line number, line) for each line that begins a table or a
    value.
    """
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+([^\[\]]+)\]", line)
        pair = re.match(r"([\w.\-\"' \t]+)=", line)
        if header:
            table = _split(header[1])
            yield table, number, line
        elif pair:
            yield table + _split(pair[1]), number, line


def _split(key: str) -> tuple[str, ...]:
    return tuple(part.strip(" \t\"'") for part in key.split("."))


# ---- overriding values


def parse_setting(setting: str) -> tuple[str, Any]:
    """The key and the value of `key=value`: the value parsed as TOML, or the text where it is no
    TOML.
    """
    key, equals, value = setting.partition("=")
    key = key.strip()
    value = value.strip()
    if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-]+){0,15}", key):
        raise UserError(
            f"'{setting[:99]}' does not have the form key=value",
            where="--set",
            remedy="write, for example, --set train.steps=200",
        )

    try:
        if TOO_DOTTED.search(value):
            raise RecursionError
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value  # a bare word, a path, a pattern: the shell removes quotes

    if not isinstance(parsed, (str, bool, int, float, list, dict)):
        parsed = value  # a date: a folder's name

    return key, parsed


def _as_list(text: str) -> list[Any]:
    """The list that `psnr,ssim` or `96,96` means."""
    _, found = parse_setting(f"key=[{text}]")
    return found if isinstance(found, list) else [item.strip() for item in text.split(",")]


def _parse_settings(settings: Settings) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield (setting as text, (key, value)); the value None, which only Python has, means the
    default.
    """
    if not isinstance(settings, Mapping):
        several = isinstance(settings, Iterable) and not isinstance(settings, str)
        for setting in map(str, settings if several else [settings]):
            yield setting, parse_setting(setting)
        return

    for key, value in settings.items():
        parse_setting(f"{key}=0")  # UserError where it is no key
        if hasattr(value, "tolist"):
            value = value.tolist()
        elif isinstance(value, Path):
            value = str(value)

        setting = f"{key}={value!r}"
        if isinstance(value, tuple):
            value = list(value)

        yield setting, (str(key).strip(), value)


def _put(tables: dict[str, Any], key: str, value: Any, setting: str) -> str:
    """Set a dotted key; returns the key of the first table that was created for it, or the key
    itself.
    """
    *parents, last = key.split(".")
    created = None
    for depth, parent in enumerate(parents, 1):
        if parent not in tables:
            created = created or ".".join(parents[:depth])

        inner = tables.get(parent, {})
        if isinstance(inner, str) and parent != "summary":
            # a bare part name gains options: --set method.generator.width=32
            inner = {"name": inner}
        elif isinstance(inner, bool) and parent == "fast":
            # all on or all off, except this part
            inner = {} if inner else dict.fromkeys(FastTable.model_fields, False)

        if not isinstance(inner, dict):
            raise UserError(
                f"'{parent}' is not a table, so it has no key '{last}'", where=f"--set {setting}"
            )

        tables[parent] = inner
        tables = inner

    tables[last] = value
    return created or key


def _take_out(tables: Any, path: tuple) -> str:
    """Remove a key, or an item of a list, in place; returns it as `key = value`."""
    *parents, last = path
    for key in parents:
        tables = tables[key]
    value = tables.pop(last)
    is_item = isinstance(last, int)
    return f"{'.'.join(map(str, parents if is_item else path))} = {one_line(toml(value))}"


def _gone_source(source: Any, error: UserError) -> Part:
    """The data source of a run whose plugin is gone: the error is for what reads the images."""

    def build(*_: Any) -> Any:
        raise error

    return Part("source", mapping(source).get("name", source), build, {})


@functools.cache
def _say_once(line: str) -> None:
    from gantk.terminal import complain

    complain("note", line, style="bold")


def _at(tables: Any, path: Iterable) -> Any:
    for key in path:
        tables = mapping(tables).get(key)
    return tables


def _drop_other_length(tables: dict[str, Any], given: Any) -> None:
    """Remove train.epochs where steps are given, and the other way round: the length given last
    wins.
    """
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if key in mapping(given) and other not in given:
            mapping(tables.get("train")).pop(other, None)


def _merge(tables: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        is_part = isinstance(value, Mapping) and "name" in value  # replaces the part before
        if isinstance(value, Mapping) and isinstance(tables.get(key), dict) and not is_part:
            _merge(tables[key], value)
        else:
            tables[key] = value


def leaves(tables: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value that is not a table."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a table, else an empty table."""
    return value if isinstance(value, dict) else {}
