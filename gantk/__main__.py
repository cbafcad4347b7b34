"""Entry point of the `gantk` command and of `python -m gantk`; Ctrl-C at any moment ends it with
exit code 130.
"""

import os
import signal
import sys
from typing import NoReturn


def leave() -> NoReturn:
    """Show the cursor again and exit with 130 at once; nothing is lost, since unfinished files have
    hidden names.
    """
    os.write(2, b"\x1b[?25h\n" * os.isatty(2))
    os._exit(130)


def interrupt(number, frame) -> None:
    """Raise KeyboardInterrupt in a running command; before one, and in imports and pydantic, which
    lose it, exit.
    """
    working = False
    while frame:
        code = frame.f_code
        if (
            code.co_filename.startswith("<frozen importlib")
            or f"{os.sep}pydantic{os.sep}" in code.co_filename
        ):
            leave()
        working = working or code.co_qualname == "Commands.invoke"
        frame = frame.f_back

    if not working:
        leave()

    sys.unraisablehook = after_interrupt
    raise KeyboardInterrupt


def after_interrupt(failure) -> None:
    """What no code can catch, after Ctrl-C: objects that were cut off may fail when they are deleted,
    which is no news.
    """
    if failure.exc_type is not None and issubclass(failure.exc_type, KeyboardInterrupt):
        leave()


def main() -> None:
    """See `gantk.cli`."""
    # it is ignored in a script's `gantk ... &`
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)

    default_hook = sys.unraisablehook  # reports exceptions that no code can catch
    sys.unraisablehook = lambda failure: (
        leave() if issubclass(failure.exc_type, KeyboardInterrupt) else default_hook(failure)
    )
    # before torch is imported: its threads would wait for each other in loops of milliseconds, and two
    # trainings on the same cores would take 1.7 times as long
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from gantk.cli import main

    main()


if __name__ == "__main__":
    main()
