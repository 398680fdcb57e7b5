"""The `keel` command: one file per subcommand. Data on stdout, progress on stderr.

Exit codes: 0 done, 1 a bug of ours (with its traceback), 3 what was asked cannot be done (one
line that says why and what to do), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    from typer import Exit, TyperException

    from keel.cli.app import app
    from keel.errors import KeelError

    try:
        return int(app(args=list(arguments), prog_name="keel", standalone_mode=False) or 0)
    except KeelError as error:
        return _refuse(str(error))
    except TyperException as error:
        return _refuse(
            f"{error.format_message().rstrip('.')}; see keel {_command(arguments)}--help"
        )
    except Exit as ended:
        return int(ended.exit_code)
    except (KeyboardInterrupt, EOFError):
        print("\nkeel: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 0


def _refuse(message: str) -> int:
    print(f"keel: {' '.join(message.split())}", file=sys.stderr)
    return 3


def _command(arguments: Sequence[str]) -> str:
    return f"{arguments[0]} " if arguments and not arguments[0].startswith("-") else ""
