"""Registers the model API `keel` with Inspect, as in `--model keel/runs/smollm2`.

Inspect imports this file whenever it lists models, so nothing heavy is loaded here.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="keel")  # type: ignore[untyped-decorator]
def keel() -> type[ModelAPI]:
    """The class of Keel's models, loaded on first use."""
    from keel.serve.inspect_model import KeelModel

    return KeelModel
