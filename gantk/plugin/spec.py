"""Types for the options of parts. The options of a part are the keyword-only parameters of its
function or class, and pydantic checks their values.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError, core_schema

from gantk.errors import UserError, count_noun, did_you_mean, one_line
from gantk.plugin.loader import registry
from gantk.plugin.loss_inputs import LOSS_INPUTS, in_words, loss_inputs
from gantk.plugin.registry import Entry


@dataclass(frozen=True)
class Part:
    """A registered part with its options.

    Call it with the positional arguments of its kind to build the part: `generator(1, 1, 2)`.
    """

    kind: str
    name: str
    target: Any  # a class or a function
    options: dict[str, Any]

    def __call__(self, *context: Any) -> Any:
        options = dict(self.options)
        for parameter, group in groups_of(self.target).items():
            names = [field.name for field in fields(group) if field.name in options]
            options[parameter] = group(**{name: options.pop(name) for name in names})

        try:
            inspect.signature(self.target).bind(*context, **options)
        except TypeError as error:
            raise (
                registry()
                .get(self.kind, self.name)
                .refusal(
                    f"cannot be called with {count_noun(context, 'argument')} and its options,"
                    f" as gantk calls {_with_article(self.kind)}",
                    error,
                )
            ) from None

        return self.target(*context, **options)

    def table(self) -> dict[str, Any]:
        """The recipe's table of this part, with every default filled in."""
        return {"name": self.name} | {
            key: plain(value) for key, value in self.options.items() if value is not None
        }


@dataclass(frozen=True)
class Kind:
    """Marks a parameter that takes a part: `generator: Annotated[Part, Kind("generator")] =
    "unet"`.

    Args:
        kind: the kind of the part.
        having: attributes that the target must have, for kinds whose members have different roles.
        takes: for a loss, what this parameter's losses are called with, a key of
            `gantk.plugin.loss_inputs.LOSS_INPUTS`.
    """

    kind: str
    having: tuple[str, ...] = ()
    takes: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._bind)

    def _bind(self, value: Any) -> Part:
        """The part that a value names, if it fits."""
        try:
            part = _bind(self.kind, value, self._fitting_names)
            if not self._fits(registry().get(self.kind, part.name)):
                raise UserError(self._refusal(part), allowed=self._fitting_names())
            return part
        except UserError as error:  # as pydantic's own error, which records the parameter
            raise PydanticCustomError("gantk", "part", {"error": error}) from error

    def _refusal(self, part: Part) -> str:
        """Why a part cannot be used here."""
        if self.takes is None:
            missing = [name for name in self.having if name not in dir(part.target)]
            return (
                f"the {self.kind} '{part.name}' cannot be used here: it has no"
                f" {' and no '.join(missing)}"
            )
        taken = in_words(loss_inputs(part.target))
        return (
            f"the {self.kind} '{part.name}' takes {taken}, but this key needs a {self.kind} of"
            f" {LOSS_INPUTS[self.takes]}"
        )

    def _fitting_names(self) -> list[str]:
        """The parts of the kind that can be used here; broken ones are left out."""
        names = []
        for entry in registry().of_kind(self.kind):
            try:
                fits = self._fits(entry)
            except UserError:
                continue
            if fits:
                names.append(entry.name)
        return names

    def _fits(self, entry: Entry) -> bool:
        target = entry.load()
        # a class has no __call__ of its metaclass there
        if not all(name in dir(target) for name in self.having):
            return False
        if self.takes is None:
            return True
        try:
            return self.takes in loss_inputs(target)
        except UserError as error:
            raise entry.refusal("does not say what it takes", error) from error


Generator = Annotated[Part, Kind("generator")]
Discriminator = Annotated[Part, Kind("discriminator")]
Loss = Annotated[Part, Kind("loss", takes="images")]
SourceLoss = Annotated[Part, Kind("loss", takes="source")]
FeatureMapLoss = Annotated[Part, Kind("loss", takes="features")]
AdversarialLoss = Annotated[Part, Kind("loss", takes="logits")]
Augment = Annotated[Part, Kind("augment")]
Source = Annotated[Part, Kind("source")]
Intensity = Annotated[Part, Kind("intensity")]
MetricPart = Annotated[Part, Kind("metric", having=("expect_data",))]
OrderPart = Annotated[Part, Kind("order")]
OptimizerPart = Annotated[Part, Kind("optimizer")]
PostPart = Annotated[Part, Kind("post")]
SchedulePart = Annotated[Part, Kind("schedule")]
TrackerPart = Annotated[Part, Kind("tracker")]
MethodPart = Annotated[Part, Kind("method")]

NO_PART = "none"  # in a recipe, the value that takes an optional part away: method.pairs = "none"

# Ranges of numbers, for the annotations of options: `width: Width = 64`. Others: Annotated[int,
# Field(ge=2, le=9)].
Onto = Literal["none", "a", "b"]  # whose grid a patient's other image is resampled onto
Width = Annotated[int, Field(ge=1, le=2**14)]  # filters of a layer, length of a latent code
# number of halvings, or of layers that double the filters
Depth = Annotated[int, Field(ge=1, le=12)]
Halvings = Annotated[int, Field(ge=0, le=12)]
Few = Annotated[int, Field(ge=0, le=128)]  # number of layers of one size, of neighbours, of threads
Side = Annotated[int, Field(ge=1, le=2**14)]  # pixels
Count = Annotated[int, Field(ge=1, le=10**9)]
Number = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

# The text of `help(gantk.Generator)` and the others: a parameter of that type, the part's call and
# its result.
IMAGES = """images
    (N, C, *size) in network intensities: -1 (black) to 1 (white), unless the recipe sets another
    range"""
for _name, _words in {
    "Generator": (
        f"""A network from images to images of the same size: `generator: gantk.Generator = "unet"`.

    `generator(channels_in, channels_out, dims)` builds it, a torch.nn.Module. It takes {IMAGES}.
    It returns images of the same size with channels_out channels.

    If the images of a batch do not influence each other, the module has the attribute
    `batch_independent = True`. An optional method `check_size(size)` raises a UserError for sizes
    that the network cannot process."""
    ),
    "Discriminator": (
        f"""A network from images to logits: `discriminator: gantk.Discriminator = "patchgan"`.

    `discriminator(channels, dims)` builds it, a torch.nn.Module. It takes {IMAGES}.
    It returns raw logits, (N, 1, *patches) or (N, 1), which are above 0 for real images.
    `batch_independent` and `check_size` are the same as for a generator."""
    ),
    "Loss": (
        """A loss of an output and its target: `loss: gantk.Loss = "l1"`.

    `loss()` builds it. It takes two batches of images of one domain, (N, C, *size) in network
    intensities. It returns a float32 tensor of shape (), from which gradients reach the output."""
    ),
    "SourceLoss": (
        """A loss of an output and its input: `loss: gantk.SourceLoss = "edge_direction"`.

    `loss()` builds it. It takes two batches of images of two domains, (N, C, *size) in network
    intensities, whose numbers of channels may differ. It returns a float32 tensor of shape (), from
    which gradients reach the output only."""
    ),
    "FeatureMapLoss": (
        """A loss of feature maps: `loss: gantk.FeatureMapLoss = "gram"`.

    `loss()` builds it. It takes two lists with one map (N, C, *size) per layer, of an output and of
    its target, whose sizes may differ. It returns a float32 tensor of shape ().

    An optional method `describe(maps)` turns a layer's maps into what is compared, (N, ...). Such
    descriptions are averaged over several targets, and the loss then takes them as its target."""
    ),
    "AdversarialLoss": (
        """A loss of generator and discriminator: `adversarial: gantk.AdversarialLoss = "ls"`.

    `adversarial()` builds it. It has three methods:

    * `generator(fake)` takes raw logits of any shape, and returns the loss that the generator
      minimises, a float32 tensor of shape ().
    * `discriminator(real, fake)` does the same for the discriminator.
    * `penalty(discriminator, real, fake)` takes the network and images, and returns another term of
      the discriminator's loss, or None.

    An optional attribute `undecided` is the logit of least discriminator loss where real and fake
    look the same, which `method.adapt` needs."""
    ),
    "Augment": (
        f"""A random change of training images on their device: `augment: list[gantk.Augment] = []`.

    `augment(dims)` builds it. It takes {IMAGES}.
    It returns images of the same shape and type. If it moves pixels, it has the attribute
    `geometric = True`; masks and pairs are then moved in the same way."""
    ),
}.items():
    globals()[_name].__doc__ = _words


class Table(BaseModel):
    """A fixed table of a recipe. Unknown keys are errors, and types are exact, except that an
    integer is accepted as a float.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )


# ---- binding: values of a recipe to parts


def _bind(kind: str, value: Any, fitting: Callable[[], list[str]] | None = None) -> Part:
    """As of `bind`; `fitting` as of `Registry.get`. Errors name no place: `path` holds the keys that
    lead to the mistake.
    """
    if isinstance(value, Part):
        return value

    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str) or len(name) > 80:
        raise UserError(
            f"{_with_article(kind)} must be a name or a table with a name, not"
            f" {_short_json(value)}",
            allowed=registry()[kind],
            remedy=f'write {kind} = {{ name = "..." }}',
        )

    entry = registry().get(kind, name, fitting)
    target = entry.load()
    try:
        model = options_model(target)
    except Exception as error:
        raise entry.refusal("has an option whose type a recipe cannot hold", error) from error

    return Part(kind, entry.name, target, dict(check(model, options, f"'{name}'")))


def bind(kind: str, value: Any) -> Part:
    """Build the Part that a value of a recipe names.

    Args:
        kind: the kind of the part.
        value: a name, or a table with `name` and options; a Part is returned unchanged.

    Raises:
        UserError: the name or an option is not valid. The message has the nearest spelling, the
            allowed names and the option.
    """
    try:
        return _bind(kind, value)
    except UserError as error:
        if error.path:
            name = value["name"] if isinstance(value, Mapping) else value
            error = error.at(f"{kind}.{'.'.join(map(str, error.path))} of '{name}'")
        raise error from None


def check(model: type[BaseModel], values: Mapping[str, Any], owner: str) -> Any:
    """Validate `values` against a model and return the instance.

    Raises:
        UserError: the first mistake, with `owner` as the subject of the message.
    """
    try:
        # Validated as JSON, whose rules recipes follow: a list may stand for a tuple, a text never
        # for a number.
        return model.model_validate_json(json.dumps(_with_defaults(model, values)))
    except ValidationError as error:
        # A misspelt key often leaves the right one missing: report the misspelt key first.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        if first["type"] == "json_invalid":  # nested too deeply
            raise UserError(
                f"{owner} has a value that a recipe cannot hold: {first['msg']}"
            ) from None
        raise _user_error(model, first, owner) from None
    # such as 5,000 digits, or a list that contains itself
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{owner} has a value that a recipe cannot hold: {one_line(error)}"
        ) from None


def _with_defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default `name` to tables without one: `generator = { width = 32 }`, `--set
    train.optimizer.lr=1e-4`. Read "none" as no part, where a part may be missing.
    """
    named = dict(values)
    for key, field in model.model_fields.items():
        value = named.get(key)
        kind = field.annotation
        inner = get_args(kind)
        is_part = any(kind_of(getattr(each, "__metadata__", ())) for each in inner)
        if value == NO_PART and is_part and type(None) in inner:
            named[key] = None
        if not isinstance(value, Mapping):
            continue
        if is_table(kind):
            named[key] = _with_defaults(kind, value)
        elif isinstance(field.default, str) and kind_of(field.metadata):
            named[key] = {"name": field.default} | dict(value)

    return named


def _user_error(model: type[BaseModel], error: Mapping[str, Any], owner: str) -> UserError:
    """Convert one pydantic error into a UserError with its path, with TOML's terms in place of
    JSON's.
    """
    *parents, key = path = tuple(error["loc"])
    if error["type"] == "gantk":
        result = error["ctx"]["error"]
    elif error["type"] == "extra_forbidden":
        known = _fields_at(model, parents)
        what = f"there is no key '{key}' here" if parents else f"{owner} has no option '{key}'"
        remedy = did_you_mean(str(key), known) if known else "It takes no options"
        for table in known:
            if key in _fields_at(model, [*parents, table]):
                remedy = f"Did you mean '{table}.{key}'?"
        result = UserError(what, allowed=known or None, remedy=remedy)
    elif error["type"] == "missing":
        kind = kind_of(getattr(model.model_fields.get(key), "metadata", ()))
        result = UserError(f"'{key}' is required")
        if kind:
            remedy = f'write {key} = {{ name = "..." }}'
            result = UserError(
                f"{_with_article(kind)} is required", allowed=registry()[kind], remedy=remedy
            )
    else:
        message = error["msg"].removeprefix("Value error, ").replace("an object", "a table")
        message = message[0].lower() + message[1:].replace("a valid array", "a list")
        given = _short_json(error["input"])
        if message.endswith("a list") and isinstance(error["input"], (int, float)):
            message += f", such as [{given}, {given}]"
        result = UserError(f"{message}, not {given}")

    result.kind = result.kind or error["type"]
    result.path = (*path, *result.path)
    return result


def _fields_at(model: Any, path: list) -> list[str]:
    """The field names of the model nested at `path`."""
    for key in path:
        field = getattr(model, "model_fields", {}).get(key)
        # of dict[str, Table]
        model = field.annotation if field is not None else next(reversed(get_args(model)), None)
        if type(None) in get_args(model):  # of Table | None
            model = next(filter(is_table, get_args(model)), model)
    return list(getattr(model, "model_fields", {}))


def kind_of(marks: Iterable[Any]) -> str | None:
    """The kind of part in an annotation's metadata; None where the annotation is not a part."""
    return next((mark.kind for mark in marks if isinstance(mark, Kind)), None)


def _short_json(value: Any) -> str:
    """A value as JSON, on one line of at most 80 characters."""
    return one_line(json.dumps(value, default=str), 80)


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def plain(value: Any) -> Any:
    """Convert a bound value to types that TOML has: tables for parts, lists for tuples, None left
    out.
    """
    if isinstance(value, Part):
        return value.table()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (dict, Table)):
        return {key: plain(item) for key, item in dict(value).items() if item is not None}
    return value


# ---- reading signatures


@functools.cache
def options_model(target: Callable[..., Any]) -> type[BaseModel]:
    """The keyword-only parameters of a callable as a pydantic model.

    A parameter whose default is a dataclass is replaced by its fields, so that parts can share a
    group of options; `**options` of a class by the options of its base class.
    """
    described: dict[str, Any] = {
        name: (hint, default) for name, hint, default in options_of(target)
    }
    for name, (_, default) in described.items():
        if name == "name" or name.startswith("_"):
            raise ValueError(f"an option cannot have the name '{name}'")
        json.dumps(None if default is ... else plain(default))

    return create_model(str(getattr(target, "__name__", "options")), __base__=Table, **described)


def options_of(target: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, type, default) of each option; the default is ... where the option is required."""
    # Type hints of a dataclass come from the class: inherited fields may be annotated in another
    # module.
    annotates_fields = "__dataclass_fields__" in vars(target) or is_table(target)
    annotated = target.__init__ if inspect.isclass(target) and not annotates_fields else target
    hints = get_type_hints(annotated, include_extras=True)
    groups = groups_of(target)
    parameters = inspect.signature(target).parameters
    for name, parameter in parameters.items():
        default = parameter.default
        if name in groups:
            inner = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                yield field.name, inner[field.name], getattr(default, field.name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            required = default is parameter.empty
            yield name, hints.get(name, Any), ... if required else default
        elif passes_on(target, parameter):
            yield from (each for each in options_of(target.__mro__[1]) if each[0] not in parameters)


def passes_on(target: Callable[..., Any], parameter: inspect.Parameter) -> TypeGuard[type]:
    """Whether a parameter such as `**options` of a class stands for the options of its base."""
    return parameter.kind is parameter.VAR_KEYWORD and inspect.isclass(target)


@functools.cache
def groups_of(target: Callable[..., Any]) -> dict[str, type]:
    """The keyword-only parameters whose default is a dataclass, with that dataclass."""
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if passes_on(target, parameter):
            groups |= groups_of(target.__mro__[1])
        elif parameter.kind is parameter.KEYWORD_ONLY and is_dataclass(type(parameter.default)):
            groups[name] = type(parameter.default)
    return groups


def is_table(hint: Any) -> TypeGuard[type[Table]]:
    return isinstance(hint, type) and issubclass(hint, Table)


def toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    # which JSON need not escape
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007F")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)
