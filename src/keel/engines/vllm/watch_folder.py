"""A folder that all HTTP processes of a server share, for what they know of conversations.

It lives as long as the server: in the gate of `keel serve`, or by itself. Knows no conversations.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from keel.engines.vllm.gate import VARIABLE

FOLDER_VARIABLE = "KEEL_WATCH"
"""Environment variable that names the folder to the HTTP processes."""


def make_folder(environment: MutableMapping[str, str]) -> None:
    """Name a folder that only its user reads in the environment of all processes to come."""
    gate = environment.get(VARIABLE)
    if gate:  # goes with it
        environment[FOLDER_VARIABLE] = gate
        return
    folder = tempfile.mkdtemp(prefix="keel-watch-")
    environment[FOLDER_VARIABLE] = folder
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def watch_folder(environment: MutableMapping[str, str]) -> Path:
    """The folder that the environment names."""
    return Path(environment[FOLDER_VARIABLE])
