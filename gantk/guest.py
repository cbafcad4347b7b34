"""gantk as a guest in somebody's program: a public function works under whatever torch, NumPy and
Python are set to there, changes none of it, and says all its lines through one channel.

Read `guest` first. gantk keeps settings of its own, as if it ran in a process of its own: they are
those of a new Python, and what gantk changes stays with it until its next function runs.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from itertools import islice
from numbers import Integral, Real
from operator import attrgetter
from threading import RLock
from types import ModuleType
from typing import Any, TypeVar

from gantk.errors import UserError, warn_of

Say = Callable[[str], None]
T = TypeVar("T")
CallableT = TypeVar("CallableT", bound=Callable[..., Any])

# libraries that warn about files that gantk reads in spite of it; those about DICOM quote headers
QUIET_NAMES = re.compile(r"(PIL|nibabel|pydicom|gantk_dicom)(\.|$)")
QUIET_LIBRARIES = ("ignore", None, Warning, QUIET_NAMES, 0)  # a filter of Python's warnings
MAX_PICTURE_PIXELS = 2**30 // 4 // 3  # Pillow's own limit; gantk's budget of a file limits pictures
NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
AUTOCAST_DEVICES = ("cpu", "cuda", "mps")
# functions of torch that set something -> those that return it
SETTERS = {
    "set_default_dtype": "get_default_dtype",
    "set_rng_state": "get_rng_state",
    "set_float32_matmul_precision": "get_float32_matmul_precision",
    "set_deterministic_debug_mode": "get_deterministic_debug_mode",
}
# settings of torch.backends, the old names of torch before the new ones
BACKENDS = {
    "cudnn.allow_tf32": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
    "cuda.matmul.fp32_precision": "none",
    "cudnn.conv.fp32_precision": "tf32",
    "cudnn.rnn.fp32_precision": "tf32",
    "mkldnn.matmul.fp32_precision": "none",
    "mkldnn.conv.fp32_precision": "none",
}
CUDA_RANDOM = "random state of the GPUs"

_listener: ContextVar[Say | None] = ContextVar("listener", default=None)
_inside: ContextVar[bool] = ContextVar("inside", default=False)
_lock = RLock()
_running = 0  # threads in which a public function runs
_own: dict[str, Any] = {}  # gantk's settings of torch, while no function runs
at_begin: list[Callable[[], None]] = []  # called when a public function or a command begins
at_failure: list[Callable[[], None]] = []  # called when a public function fails
_restore_host: Callable[[], None]  # set while a function runs


def tell(line: str) -> None:
    """The `say` of functions that are given none: prints lines, but notes and warnings become
    Python warnings, `gantk.GantkWarning`.
    """
    if not warn_of(line):
        with suppress(ValueError):  # the host has closed its standard output
            print(line, flush=True)


def give_warning(line: str) -> None:
    """The `say` of functions that have none: notes and warnings become Python warnings."""
    warn_of(line)


def listener() -> Say | None:
    """The `say` of the public function that runs, if one was given."""
    return _listener.get()


def hear(line: str) -> bool:
    """Give a line to the `say` of the public function that runs; returns whether one does."""
    say = listener()
    if say is not None:
        say(line)
    return say is not None


@contextmanager
def guest(say: Say | None = None, keeps_grad: bool = False) -> Iterator[None]:
    """Context manager of every public function: in it all global settings are gantk's, after it the
    host's again.

    Args:
        say: hears the lines of the block, those of `gantk.terminal.warn` too; None: they are printed.
        keeps_grad: whether the host decides if gradients are recorded; else they are.
    """
    token = _listener.set(say or _listener.get())
    try:
        if _inside.get():
            yield
            return
        entered = _inside.set(True)
        for begin in at_begin:
            begin()
        try:
            with _process(), _thread(keeps_grad):
                yield
        finally:
            _inside.reset(entered)
    finally:
        _listener.reset(token)


def as_guest(function: CallableT, *, keeps_grad: bool = False) -> CallableT:
    """A public function, or method, that runs in a `guest` with its parameter `say`. UserError for an
    argument of another type than its signature says.
    """
    signature = inspect.signature(function)
    usual = signature.parameters["say"].default if "say" in signature.parameters else None

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if _inside.get():
            with guest(named.get("say"), keeps_grad):
                return function(*given, **named)
        with suppress(TypeError):  # the call itself raises it, in Python's words
            bound = signature.bind(*given, **named)
            for name, value in bound.arguments.items():
                bound.arguments[name] = _of_type(name, value, signature.parameters[name], function)
            given, named = bound.args, bound.kwargs
        with guest(named.get("say") or usual or give_warning, keeps_grad):
            try:
                return function(*given, **named)
            except BaseException:
                for clear in at_failure:
                    clear()
                raise

    return call  # type: ignore[return-value]


def each_as_guest(items: Generator[T, None, None], say: Say) -> Iterator[T]:
    """Yield items, each of which is made in a `guest`: the host works between them."""
    try:
        while True:
            with guest(say):
                made = [*islice(items, 1)]
            if not made:
                return
            yield made[0]
    finally:
        with guest(say):
            items.close()


# ---- what is set


@contextmanager
def _process() -> Iterator[None]:
    """Exchange the settings that all threads share, when the first function begins and when the last
    one ends.
    """
    global _running, _restore_host
    with _lock:
        if not _running:
            _restore_host = _take_over()
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                _restore_host()


def _take_over() -> Callable[[], None]:
    """Set what all threads share to gantk's settings; returns what sets it to the host's again."""
    filters = warnings.filters[:]
    shown = [("default", *each[1:]) if each[0] == "error" else each for each in filters]
    # in place: a warning that was given once stays given
    warnings.filters[:] = [QUIET_LIBRARIES, *shown]  # type: ignore[index]
    pillow = sys.modules.get("PIL.Image")
    pixels = getattr(pillow, "MAX_IMAGE_PIXELS", MAX_PICTURE_PIXELS)
    if pillow is not None:
        vars(pillow)["MAX_IMAGE_PIXELS"] = None

    torch = sys.modules.get("torch")
    host = {}
    if torch is not None:
        host = _settings(torch)
        _apply(torch, _own or _new_settings(torch))

    def restore() -> None:
        warnings.filters[:] = filters  # type: ignore[index]
        if pillow := sys.modules.get("PIL.Image"):
            vars(pillow)["MAX_IMAGE_PIXELS"] = pixels
        if torch := sys.modules.get("torch"):
            _own.update(_settings(torch))
            _apply(torch, host or _new_settings(torch))
            if CUDA_RANDOM in _own and CUDA_RANDOM not in host:
                torch.cuda.manual_seed_all(torch.initial_seed())

    return restore


@contextmanager
def _thread(keeps_grad: bool) -> Iterator[None]:
    """Leave the modes of torch and NumPy that the host has entered in this thread."""
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    with ExitStack() as modes:
        if numpy is not None:
            modes.enter_context(numpy.errstate(**NUMPY_ERRORS))
        if torch is not None:
            records = torch.is_grad_enabled() if keeps_grad else True
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.set_grad_enabled(records))
            for device in AUTOCAST_DEVICES:
                if torch.is_autocast_enabled(device):
                    modes.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":
                modes.enter_context(torch.device("cpu"))
        yield


def _settings(torch: ModuleType) -> dict[str, Any]:
    """What torch is set to, by the names that set it."""
    found = {}
    for name in (*SETTERS, *BACKENDS):
        # torch does not say what an old name stands for where a new one was used
        with suppress(RuntimeError):
            found[name] = (
                getattr(torch, SETTERS[name])()
                if name in SETTERS
                else attrgetter(name)(torch.backends)
            )
    if torch.cuda.is_initialized():
        found[CUDA_RANDOM] = torch.cuda.get_rng_state_all()
    return found


def _new_settings(torch: ModuleType) -> dict[str, Any]:
    """What torch is set to in a new process."""
    return {
        "set_default_dtype": torch.float32,
        "set_rng_state": torch.Generator().get_state(),
        "set_float32_matmul_precision": "highest",
        "set_deterministic_debug_mode": 0,
        **BACKENDS,
    }


def _apply(torch: ModuleType, settings: Mapping[str, Any]) -> None:
    """Set torch to these settings."""
    for name, value in settings.items():
        if name in SETTERS:
            getattr(torch, name)(value)
        elif name == CUDA_RANDOM:
            torch.cuda.set_rng_state_all(value)
        else:
            place, _, setting = name.rpartition(".")
            setattr(attrgetter(place)(torch.backends), setting, value)


# ---- what is given

# what an annotation accepts, and what it is called
TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "None": (type(None), "None"),
    "Path": (os.PathLike, "a path"),
    "AnyPath": ((str, os.PathLike), "a path"),
}


def _of_type(name: str, value: Any, parameter: inspect.Parameter, function: Any) -> Any:
    """A value of a type that a parameter's annotation lists; numbers of NumPy and torch become
    Python's. UserError for another type.
    """
    names = str(parameter.annotation).split(" | ")
    if any(each not in TYPES for each in names):
        return value  # `Any`, or a type that the function itself checks
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    if not several and not any(isinstance(value, TYPES[each][0]) for each in names):
        raise UserError(
            f"'{name}' of gantk.{function.__qualname__} has the type {type(value).__name__}",
            where=name,
            allowed=dict.fromkeys(TYPES[each][1] for each in names),
        )
    return value
