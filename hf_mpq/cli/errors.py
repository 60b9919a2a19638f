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
"""Exit codes: the answer is no; wrong arguments or files; an error that should not happen; Ctrl-C.

Other signals that end a command give 128 and their number."""
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
                said = str(error) if isinstance(error, KeyboardInterrupt) else ""
                code = 128 + (interrupts.seen or signal.SIGINT)
                leave(said or "interrupted; nothing half written is left", code, debug)
            _end(error, debug)

    signature = inspect.signature(command)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), debug])
    run.__annotations__ = {**command.__annotations__, "debug": Debug}
    return run


class Interrupts:
    """Ctrl-C, and the signals by which a system ends a command, raise KeyboardInterrupt, so that it tidies up.

    Attributes:
        seen: number of the signal that came, 0 for none: libraries turn the KeyboardInterrupt into errors of their own.
    """

    def __init__(self):
        self.seen, self._before = 0, {}

    def __enter__(self) -> None:
        usual = (signal.default_int_handler, signal.SIG_DFL)
        signals = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
        if current_thread() is main_thread():
            self._before = {number: signal.getsignal(number) for number in signals}
        for number in (number for number, before in self._before.items() if before in usual):
            signal.signal(number, self._take)

    def _take(self, number: int, frame) -> None:
        self.seen = self.seen or number
        raise KeyboardInterrupt

    def __exit__(self, *error) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._take:
                signal.signal(number, before)


def _end(error: BaseException, debug: bool) -> None:
    """Exit as an error of a command says."""
    if isinstance(error, BrokenPipeError | typer.Exit | typer.Abort | typer.BadParameter | SystemExit):
        raise error
    if isinstance(error, MISTAKES) or _of_the_system(error):
        leave(f"error: {one_line(error)}", MISTAKE, debug)
    leave(f"error: this should not happen, please report it: {one_line(error)}", BUG, True)


def _of_the_system(error: BaseException) -> bool:
    """Whether a full disk or the like is behind an error of a library in Rust."""
    from ..core.files import system_error

    return system_error(error) is not None


def leave(message: str, code: int, with_traceback: bool) -> None:
    """Print why, and exit."""
    if with_traceback:
        traceback.print_exc()
    say(message)
    raise typer.Exit(code)


def one_line(error: BaseException) -> str:
    """The message without line breaks; the error's kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
