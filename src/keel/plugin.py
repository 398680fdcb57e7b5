"""What vLLM loads in each of its processes. Imports nothing but the standard library.

vLLM only logs an error at the import of a plugin, and goes on uncapped; what the plugin's function
raises ends it. So everything that can fail comes in the function.
"""

from __future__ import annotations

import os
import sys


def register() -> None:
    """Set Keel up in this process of vLLM's; end it where floors are set and Keel cannot load."""
    try:
        from keel.engines.vllm import plugin
    except ImportError as error:
        if not any(name.upper().startswith("KEEL_") for name in os.environ):
            return  # nobody wants it here, and vLLM is as good without
        print(
            f"keel: Keel cannot be loaded: {error}; install what it needs (pip install keel-llm), "
            "or unset every KEEL_ variable to serve uncapped",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(3) from error
    plugin.register()
