"""The `gantk` command, and `python -m gantk`: Ctrl-C ends it with 130 from the first line on."""

import os
import signal
import sys


def leave() -> None:
    """End at once, which loses nothing: what is half written has a hidden name. The terminal's cursor comes back."""
    os.write(2, b"\x1b[?25h\n" * os.isatty(2))
    os._exit(130)


def interrupt(number, frame) -> None:
    """KeyboardInterrupt in a command at work; before it, and in imports and pydantic, which forget that, the end."""
    working = False
    while frame:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or f"{os.sep}pydantic{os.sep}" in code.co_filename:
            leave()
        working, frame = working or code.co_qualname == "Commands.invoke", frame.f_back
    raise KeyboardInterrupt if working else leave()


def main() -> None:
    """See `gantk.cli`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as `gantk ... &` in a script is
        signal.signal(signal.SIGINT, interrupt)
    other = sys.unraisablehook  # of what is raised where nobody can catch it
    sys.unraisablehook = lambda told: leave() if told.exc_type is KeyboardInterrupt else other(told)
    from gantk.cli import main

    main()


if __name__ == "__main__":
    main()
