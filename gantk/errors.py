"""Exceptions with a message for the user: `UserError` for mistakes in the input (exit code 2),
`GantkError` for other failures (exit code 1). An error that nobody foresaw becomes one message by
`unforeseen_message`.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import tempfile
import traceback
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager

DISK_FULL_REMEDY = "Free disk space, or name a folder on another disk."
DENIED_REMEDY = "Write to a folder of your own, or change the permissions of this one."
REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: DISK_FULL_REMEDY,
    errno.EDQUOT: DISK_FULL_REMEDY,
    errno.EACCES: DENIED_REMEDY,
    errno.EPERM: DENIED_REMEDY,
    errno.EROFS: DENIED_REMEDY,
    errno.EFBIG: "Raise the system limit for the size of files (ulimit -f).",
}
MAX_ALLOWED_CHARACTERS = 80  # of allowed values that stand beside the likely one
# arguments of commands, whose functions have parameters of the same names
ARGUMENTS = ("FOLDER", "IMAGE", "INPUT", "NAME", "OUT", "OUTPUT", "RECIPE", "RUN", "SCANS", "STYLE")


# of the machine, not of a file: the same call may work later, or elsewhere
MACHINE_ERRNOS = {*REMEDIES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
MACHINE_ERRNOS |= {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}


class GantkError(Exception):
    """A failure with a message for the user. The command line prints the message without a
    traceback and exits with code 1.
    """

    exit_code = 1
    label = "error"  # the first word of what the command line prints

    def on_command_line(self) -> str:
        """The message with the names of the command line; `str()` has those of Python."""
        return str(self)


class UserError(GantkError):
    """A mistake in the input. The command line exits with code 2.

    Example:

        raise gantk.UserError(
            "the mask has another size than the image",
            where="lesions.nii.gz",
            allowed="(64, 64)",
            remedy="Resample the mask to the grid of the image.",
        )

    Args:
        what: what happened, as a sentence.
        where: the option, the key of the recipe or the file.
        allowed: the accepted values, as a text or a list of names.
        remedy: what to do, as an imperative.
    """

    exit_code = 2
    path: tuple = ()  # the keys that lead to the mistake inside a recipe
    kind: str = ""  # of a mistake in a recipe: pydantic's type, such as "extra_forbidden"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: str | Iterable[str] | None = None,
        remedy: str | None = None,
    ):
        self.what = what
        self.where = where
        self.remedy = remedy
        if allowed is None or isinstance(allowed, str):
            self.allowed = allowed
        else:
            self.allowed = ", ".join(allowed)

        super().__init__(what)

    def __str__(self) -> str:
        return self._text(self.where and python_name(self.where))

    def on_command_line(self) -> str:
        return self._text(self.where)

    def _text(self, where: str | None) -> str:
        remedy = self.remedy and self.remedy[0].upper() + self.remedy[1:]
        allowed = self.allowed
        if (
            remedy
            and remedy.startswith("Did you mean")
            and len(allowed or "") > MAX_ALLOWED_CHARACTERS
        ):
            allowed = None  # the likely name matters more than a long list
        sentences = [self.what, f"Allowed: {allowed}" if allowed else None, remedy]
        text = " ".join(sentence.rstrip(".") + "." for sentence in sentences if sentence).replace(
            "?.", "?"
        )
        text = f"{text}  ({where})" if where else text
        # A quotation from a file is cut to 200 characters; a path is shown whole.
        return re.sub(
            r"(?<!\w)'([^'/]{90})[^'/]{20,}([^'/]{90})'(?!\w)", r"'\1 ... \2'", printable(text)
        )

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]  # what a notebook shows

    def at(self, where: str) -> UserError:
        """Put `where` before the place that this error already names; returns the error."""
        self.where = f"{where}: {self.where}" if self.where else where
        return self


def python_name(where: str) -> str:
    """The parameter that an option or argument of the command line sets: `to` of "--to", `input` of
    "INPUT"; other places are unchanged.
    """
    if where in ARGUMENTS:
        return where.lower()
    return re.sub(r"(?<!\S)--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), where)


class TooFewImages(UserError):
    """A data source found no image of what it was asked for, or only one."""


class NothingFound(TooFewImages):
    """A data source found no image of what it was asked for."""


class Interrupted(GantkError):
    """The user stopped the run. gantk wrote a checkpoint first. The exit code is 130."""

    exit_code = 130
    label = "stop"


class GantkWarning(UserWarning):
    """A note or a warning about images, a recipe or a result: what the command line prints."""


def note_in(line: str) -> str | None:
    """The text of a line of output that is a note or a warning; None for other lines."""
    label, _, text = line.partition(" ")
    return text.strip() if label in ("note", "warning") else None


def warn_of(line: str) -> bool:
    """Give a GantkWarning of a line of output that is a note or a warning; returns whether it is."""
    text = note_in(line)
    if text is None:
        return False
    warnings.warn(text, GantkWarning, stacklevel=4)
    return True


WHILE = "while "  # begins the note of `doing`
CHECK_FILE = "check the path and its permissions, or copy the file again"
CHECK_FOLDER = "check the path, its permissions and the free disk space"


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Context manager: name what is being done, with its file or key, in the message about an error
    that nobody foresaw.

    Example:

        with gantk.errors.doing(f"writing '{path}'"):
            ...
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"{WHILE}{what}")
        raise


@contextmanager
def reading_file(
    name: str | os.PathLike[str],
    kind: str = "",
    *,
    where: str | None = None,
    allowed: str | None = None,
    remedy: str = CHECK_FILE,
    in_words: Callable[[Exception], str] | None = None,
) -> Iterator[None]:
    """Context manager: whatever goes wrong while a user's file is read is one UserError, which names
    the file and gives the library's words.

    Libraries raise any kind of exception for a damaged file. A UserError of the block says more, and
    stays; so do errors of the machine, such as too many open files.

    Example:

        with gantk.errors.reading_file(path, "JSON"):
            content = json.loads(gantk.files.read_file(path))

    Args:
        name: the file, as the message names it.
        kind: what it is read as, such as "NIfTI".
        where: the option or key that names the file.
        allowed: the files that can be read.
        remedy: what to do, as an imperative.
        in_words: what is said of an error, by default `file_error_words`; a function that quotes
            nothing where the file may name a patient.
    """
    try:
        yield
    except UserError as error:
        keys = ".".join(map(str, error.path))
        if not keys and os.path.basename(name) in str(error):
            raise
        raise error.at(f"{name}, {keys}" if keys else str(name)) from error.__cause__
    except Exception as error:
        if memory_ended(error):
            raise UserError(
                f"'{name}' does not fit into memory",
                where=where,
                remedy="close other programs, or use a smaller file",
            ) from error

        error.add_note(f"{WHILE}reading '{name}'")
        raise_if_of_machine(error)
        missing = os.path.basename(getattr(error, "filename", None) or "")
        if isinstance(error, FileNotFoundError) and missing == os.path.basename(name):
            raise UserError(f"'{name}' does not exist", where=where, remedy=remedy) from None

        if isinstance(error, PermissionError):
            raise UserError(
                f"'{name}' cannot be read: {file_error_words(error)}",
                where=where,
                remedy="check its permissions",
            ) from None

        as_kind = f" as {kind}" if kind else ""
        raise UserError(
            f"'{name}' cannot be read{as_kind}: {(in_words or file_error_words)(error)}",
            where=where,
            allowed=allowed,
            remedy=remedy,
        ) from None


@contextmanager
def writing_file(
    name: str | os.PathLike[str], *, where: str | None = None, remedy: str | None = None
) -> Iterator[None]:
    """Context manager: whatever goes wrong while a user's file or folder is written is one UserError,
    which names it and gives the system's words. A UserError of the block says more, and stays.

    Args:
        name: the file or folder, as the message names it.
        where: the option or key that names it.
        remedy: what to do, as an imperative; by default what the error asks for.
    """
    try:
        yield
    except UserError as error:
        if os.path.basename(name) not in str(error):
            error.at(str(name))
        raise
    except (OSError, UnicodeEncodeError) as error:
        known = REMEDIES.get(getattr(error, "errno", None), CHECK_FOLDER)
        raise UserError(
            f"'{name}' cannot be written: {file_error_words(error)}",
            where=where,
            remedy=remedy or known,
        ) from error


def file_error_words(error: Exception) -> str:
    """What a library's error says about a file, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    is_key = isinstance(error, KeyError) and " is not " not in str(error)
    return f"it lacks {one_line(error)}" if is_key else one_line(error)


@contextmanager
def importing(what: str, extra: str) -> Iterator[None]:
    """Context manager: a package that the block lacks, or that cannot be imported, is a UserError,
    which says what needs it and how to install it, by an extra of gantk.
    """
    try:
        yield
    except ImportError as error:
        package = "a package"  # of a library that the system lacks, no name is known
        if error.name:
            package = f"the package {error.name.split('.')[0]}"
        fault = "is not installed"
        if not isinstance(error, ModuleNotFoundError):
            fault = f"cannot be imported ({one_line(error)})"
        raise UserError(
            f"{what} needs {package}, which {fault}",
            remedy=f'install it: pip install "gantk[{extra}]"',
        ) from error


def expect_format(what: str, found: int, known: int, where: str) -> None:
    """UserError where a file is of a later format than this gantk knows."""
    if found > known:
        raise UserError(
            f"{what} has format {found}, but this gantk reads formats up to {known}",
            where=where,
            remedy="upgrade gantk: pip install --upgrade gantk",
        )


def unforeseen_message(error: BaseException) -> str:
    """The message about an error that nobody foresaw: what was being done (the innermost `doing`),
    the library's words on one line, the other notes of the error, and the file in the system's
    folder of temporary files to which its traceback is written, for this user only.
    """
    known = machine_failure(error)
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    places = [f", {note}" for note in notes if note.startswith(WHILE)][:1]
    words = known or f"{one_line(error).rstrip('.')}."
    advice = [f" {note}." for note in notes if not note.startswith(WHILE)]
    if known and getattr(error, "errno", None) in (None, *REMEDIES):
        return f"{known}{''.join(advice)}"

    text = f"{type(error).__name__}{''.join(places)}: {words}{''.join(advice)}"
    try:
        descriptor, path = tempfile.mkstemp(".txt", "gantk-error-")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:  # a full disk: the message matters more
        return text

    return f"{text} The traceback is in {path}"


class FailedOnOtherRank(GantkError):
    """Another process of this training failed and prints the reason. This process exits with the
    same code and prints nothing.
    """

    def __init__(self, rank: int, exit_code: int):
        self.exit_code = exit_code
        super().__init__(f"rank {rank} stopped; see its message")


def printable(text: str) -> str:
    """A text with unprintable characters, which could control a terminal, as escape sequences; line
    breaks stay.

    Lone surrogates (file names need not be UTF-8) and marks that change the writing direction are
    escaped too.
    """
    hidden = (c for c in set(text) if not c.isprintable() and c != "\n")
    return text.translate(
        {ord(c): c.encode("unicode_escape", "backslashreplace").decode() for c in hidden}
    )


def text_of(error: BaseException | str) -> str:
    """The message of an error, "" where it cannot be made: a library's own class may fail in it."""
    try:
        return str(error)
    except Exception:
        return ""


def one_line(error: BaseException | str, most: int = 160) -> str:
    """The message of a library's error in one line of at most `most` characters; without one, the
    error's class.

    Libraries quote what they read: a message must not reveal a patient's file.
    """
    # pydicom ends its messages with a traceback
    text = text_of(error).partition("Traceback (most recent call last)")[0]
    line = printable(" ".join(text.split()))
    return (line if len(line) <= most else line[: most - 4] + " ...") or type(error).__name__


def memory_ended(error: BaseException) -> bool:
    """Whether an error of Python, torch or the dynamic loader means that memory ran out."""
    signs = "can't allocate memory", "failed to map segment", "Cannot allocate memory"
    return isinstance(error, MemoryError) or any(sign in text_of(error) for sign in signs)


def may_pass(error: BaseException) -> bool:
    """Whether an error, or one that it was raised for, is of the machine, such as a full disk or no
    memory, so that waiting may help.
    """
    return any(
        memory_ended(each) or getattr(each, "errno", None) in MACHINE_ERRNOS
        for each in chain_of(error)
    )


def line_of(error: BaseException, packages: Container[str]) -> tuple[str, str]:
    """The last of these packages that ran when an error was raised, and its line as `file:line`; ""
    twice where none did. Frames of libraries belong to their caller.
    """
    found = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in packages and not frame.f_code.co_filename.startswith("<"):
            found = package, f"{frame.f_code.co_filename}:{line}"
    if isinstance(error, SyntaxError) and error.filename:
        return found[0], f"{error.filename}:{error.lineno}"
    return found


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised for, each after what it caused."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def raise_if_of_machine(error: Exception) -> None:
    """Raise an error about a file again that is of the machine, such as too many open files: the
    file is not damaged, and what is read without it would be wrong. A file that nobody may read is
    like a damaged one.
    """
    denied = any(isinstance(each, PermissionError) for each in chain_of(error))
    if may_pass(error) and not denied:
        raise error


def machine_failure(error: BaseException) -> str | None:
    """The message for a full disk, a read-only folder, an unencodable name or no memory; None for
    other errors.
    """
    if memory_ended(error):
        return (
            "the memory is full. Close other programs, use a smaller image or batch, or a"
            " machine with more memory."
        )

    if isinstance(error, UnicodeEncodeError):
        return (
            f"a name has characters that the encoding of this system lacks: {one_line(error)}."
            " Rename it."
        )

    if isinstance(error, OSError) and error.errno:
        if isinstance(error.filename, (str, bytes)):
            place = f"'{printable(os.fsdecode(error.filename))}': "
        else:
            place = ""
        remedy = REMEDIES.get(error.errno)
        return f"{place}{os.strerror(error.errno)}." + (f" {remedy}" if remedy else "")

    return None


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """`Did you mean 'x'?` with the closest spelling in `names`, or None where nothing is close."""
    spelled = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(spelled), n=1, cutoff=0.6)
    return f"Did you mean '{spelled[close[0]]}'?" if close else None


def argument(path: object) -> str:
    """A path as one argument of a shell command: quoted if needed, and `./` before a dash, which
    means an option.
    """
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def shape_or_type(value: object) -> str:
    """What a plugin returned, in words: `(2, 1, 64, 64)`, or the type of what has no shape."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else str(tuple(shape))


def join_first(texts: Sequence[str], between: str = ", ", most: int = 4) -> str:
    """Join the first texts, and add the number of the others."""
    text = between.join(texts[:most])
    return f"{text} and {len(texts) - most} more" if len(texts) > most else text


def count_noun(some: int | Sized, noun: str) -> str:
    """`1 image`, `3 images`, `2 series`, `4 boxes`: a number, or how many there are of something,
    with its noun.
    """
    count = some if isinstance(some, int) else len(some)
    if count != 1 and not noun.endswith("series"):
        noun = re.sub(r"(s|x|ch|sh)$", r"\1e", re.sub(r"([^aeiou])y$", r"\1ie", noun)) + "s"
    return f"{count} {noun}"
