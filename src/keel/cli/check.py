"""keel check: whether a server is capped, asked from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keel.cli import console
from keel.cli.options import Given, takes
from keel.settings import CheckSettings

EXAMPLES = """
Examples:

    keel check http://127.0.0.1:8000

    keel check https://models.example.org/v1 --key-env MODELS_KEY --json
"""


@takes(CheckSettings())
def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the server.", show_default=False)],
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Probe a running server: exit 0 if it has shown that it is capped, else 3 with the reason."""
    from keel.errors import UsageError

    scheme, _, host = url.rpartition("://")
    if scheme not in ("http", "https") or not host:
        is_host = host and not Path(url).exists()
        example = f"http://{host if is_host else 'localhost:8000'}"
        raise UsageError(f"{url} is no address, expected http://HOST:PORT such as {example}")
    from keel.serve import check_server

    result = check_server(url, given.over(CheckSettings()))
    if json:
        console.print_json(result)
    else:
        console.stdout.print(result.line, markup=False, soft_wrap=True)
