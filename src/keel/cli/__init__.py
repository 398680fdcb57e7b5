"""The `keel` command: one file per subcommand. Data on stdout, progress on stderr.

Exit codes: 0 done, 1 a bug of ours (with its traceback), 3 what was asked cannot be done (one
line that says why and what to do), 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

_INTERRUPTED = 130
"""What typer returns after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    # Beside other work, threads that spin while they wait for each other take each other's time:
    # 0.4 passes per second against 8 at load 12 on two cores. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; without arguments, show the help."""
    gc.disable()  # nothing that loads is garbage; looking for it takes a tenth of `keel --help`
    try:
        from typer import Abort, TyperException

        from keel.cli.app import COMMANDS, make_app
        from keel.errors import KeelError

        called = arguments[0] if arguments and arguments[0] in COMMANDS else ""
        # A shell that completes a line names no command here.
        app = make_app(None if "_KEEL_COMPLETE" in os.environ else called)
    finally:
        gc.enable()
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="keel", standalone_mode=False)
        sys.stdout.flush()
    except KeelError as error:
        return _refuse(str(error))
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else f"keel {called}".rstrip()
        message = error.format_message().replace(": Value error, ", ": ").rstrip(".")
        return _refuse(f"{message}; see {command} --help")
    except Abort:  # typer's word for the end of an input that a command still waits for
        return _interrupted()
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as ended:  # typer meets a broken pipe first, and exits with 1
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _reader_gone()
    return _interrupted() if code == _INTERRUPTED else int(code or 0)


def _refuse(message: str) -> int:
    print(f"keel: {' '.join(message.split())}", file=sys.stderr)
    return 3


def _interrupted() -> int:
    print("\nkeel: interrupted; run the same command again to go on", file=sys.stderr)
    return _INTERRUPTED


def _reader_gone() -> int:
    """Ends quietly when the reader of our output has gone, as with `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
