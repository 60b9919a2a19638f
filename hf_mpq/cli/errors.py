"""Mistakes of the user become one line and an exit code; `--debug` shows where they came from."""

import functools
import inspect
import signal
import traceback
from collections.abc import Callable
from threading import current_thread, main_thread
from typing import Annotated

import typer

from .console import quiet_libraries, say

NO, MISTAKE, BUG, INTERRUPTED = 1, 2, 3, 130
"""Exit codes: the answer is no; wrong arguments or files; an error that should not happen; Ctrl-C."""
MISTAKES = (ValueError, OSError, ImportError)

Debug = Annotated[bool, typer.Option("--debug", envvar="HF_MPQ_DEBUG", help="Show where an error comes from.")]


class UserError(ValueError):
    """Something that the user can put right; the message says how."""


def guarded(command: Callable) -> Callable:
    """The command with `--debug`, errors of one line, and quiet libraries.

    Exit codes: those that the command raises itself, and `MISTAKE`, `BUG` (with a traceback) and `INTERRUPTED`.
    """

    @functools.wraps(command)
    def run(*args, debug: bool = False, **kwargs) -> None:
        interrupts = Interrupts()
        try:
            quiet_libraries()
            with interrupts:
                command(*args, **kwargs)
        except BaseException as error:
            if interrupts.seen or isinstance(error, KeyboardInterrupt):
                leave("interrupted; nothing half written is left", INTERRUPTED, debug)
            _end(error, debug)

    signature = inspect.signature(command)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), debug])
    run.__annotations__ = {**command.__annotations__, "debug": Debug}
    return run


class Interrupts:
    """Remembers Ctrl-C: libraries turn the KeyboardInterrupt that it raises into errors of their own."""

    def __init__(self):
        self.seen = False

    def __enter__(self) -> None:
        self.before = signal.getsignal(signal.SIGINT) if current_thread() is main_thread() else None
        if self.before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._take)

    def _take(self, number: int, frame) -> None:
        self.seen = True
        raise KeyboardInterrupt

    def __exit__(self, *error) -> None:
        if self.before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.before)


def _end(error: BaseException, debug: bool) -> None:
    """Exit as an error of a command says."""
    if isinstance(error, BrokenPipeError | typer.Exit | typer.Abort | typer.BadParameter | SystemExit):
        raise error
    if isinstance(error, MISTAKES):
        leave(f"error: {one_line(error)}", MISTAKE, debug)
    leave(f"error: this should not happen, please report it: {one_line(error)}", BUG, True)


def leave(message: str, code: int, with_traceback: bool) -> None:
    """Print why, and exit."""
    if with_traceback:
        traceback.print_exc()
    say(message)
    raise typer.Exit(code)


def one_line(error: BaseException) -> str:
    """The message without line breaks; the error's kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
