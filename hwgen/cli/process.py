# SPDX-License-Identifier: Apache-2.0
"""From the arguments of a process to its exit status.

Exit status: 0 done; 1 the request cannot be met, data are bad or a check failed; 2 wrong usage;
130 interrupted; 143 terminated. With ``--json`` standard output carries one JSON object and nothing
else, a failure being ``{"error": ...}``; progress and messages go to standard error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

import click

from hwgen import __version__
from hwgen.cli.group import commands
from hwgen.cli.output import INTERRUPTED, TERMINATED, Output, describe_error, sentence
from hwgen.errors import HwgenError

#: Conditions of disk, memory and permissions that are no fault of the program.
_SYSTEM_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
    }
)


#: Paths that cannot be: the user's, where the error names one.
_PATH_ERRORS = frozenset({errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same clearing up as after Ctrl-C."""


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[Output]:
    """Keep standard output for the JSON object: whatever else is printed goes to standard error.

    The file descriptor itself is redirected, because libraries in C++ print there too.
    """
    if not as_json:
        yield Output(as_json=False, stream=sys.stdout)
        return
    try:
        number = sys.stdout.fileno()
        sys.stdout.flush()
        kept = os.dup(number)
    except (OSError, ValueError, AttributeError):  # no real file: a test, or a closed stream
        stream = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield Output(as_json=True, stream=stream)
        return
    try:
        os.dup2(sys.stderr.fileno(), number)
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            yield Output(as_json=True, stream=stream)
        sys.stdout.flush()
    finally:
        os.dup2(kept, number)
        os.close(kept)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; nothing a user does gives a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Options of the program that follows `--` are not ours.
        ours = given[: given.index("--")] if "--" in given else given
        with _output("--json" in ours) as output, _interrupts_kept():
            return _run(given, output)
    except BrokenPipeError:  # the reader of our output went away
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise an interrupt again that came while a destructor ran; SIGTERM is one, too.

    What a ``__del__`` raises is reported and forgotten. Amaranth's modules have one, and a signal
    that comes while many are freed is first seen there: the command would run on to its end.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not ours
        yield
        return

    latest: type[KeyboardInterrupt] = KeyboardInterrupt

    def again(_number: int, _frame: object) -> None:
        raise latest

    def terminate(_number: int, _frame: object) -> None:
        raise Terminated

    def unraisable(report: sys.UnraisableHookArgs) -> None:
        nonlocal latest
        if issubclass(report.exc_type, KeyboardInterrupt):
            latest = report.exc_type
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            hook(report)

    handler, hook = signal.signal(signal.SIGALRM, again), sys.unraisablehook
    sys.unraisablehook = unraisable
    ours = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, handler)


def _run(given: list[str], output: Output) -> int:
    def fail(error: BaseException, status: int, text: str | None = None) -> int:
        print(text or f"error: {sentence(error)}", file=sys.stderr)
        if output.as_json:
            output.write(describe_error(error))
        return status

    try:
        status = commands.main(args=given, prog_name="hwgen", standalone_mode=False, obj=output)
        return status if isinstance(status, int) else 0
    except HwgenError as error:
        return fail(error, error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        return fail(error, 2, error.format_message())
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
        return fail(error, 2, f"error: {sentence(error)}{hint}")
    except (KeyboardInterrupt, click.exceptions.Abort) as error:
        # Click raises its own exception from what came.
        if isinstance(error, Terminated) or isinstance(error.__cause__, Terminated):
            return fail(Terminated("terminated"), TERMINATED)
        return fail(KeyboardInterrupt("interrupted"), INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:
        named = error.filename is not None
        if error.errno not in _SYSTEM_ERRORS and not (named and error.errno in _PATH_ERRORS):
            return _bug(error, fail)
        place = f"{error.filename}: " if named else ""
        return fail(HwgenError(f"{place}{error.strerror}"), 1)
    except MemoryError:
        return fail(HwgenError("Memory must suffice for the model, and does not"), 1)
    except Exception as error:
        return _bug(error, fail)


def _bug(error: Exception, fail: Callable[..., int]) -> int:
    traceback.print_exc()
    text = f"error: this is a fault of hwgen {__version__}, please report it with the lines above"
    return fail(HwgenError(f"{type(error).__name__}: {error}"), 1, text)
