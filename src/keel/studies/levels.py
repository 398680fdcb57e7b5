"""What is kept of the projections of a turn's tokens. Knows no conversations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from keel.errors import NotFiniteError
from keel.types import TurnLevel

_WINDOW = 8
_BEGINNING = 16


def turn_levels(
    layers: Sequence[int],
    projections_TK: Float[Tensor, "token probe"],
    prompt_K: Float[Tensor, " probe"] | None = None,
) -> tuple[TurnLevel, ...]:
    """The level of a turn at each layer, one column of projections each; () without tokens.

    Raises NotFiniteError when a projection is NaN or Inf.
    """
    if not len(projections_TK):
        return ()
    levels = []
    before = [None] * len(layers) if prompt_K is None else prompt_K.double().tolist()
    columns = projections_TK.double().cpu().T
    for layer, projections_T, prompt in zip(layers, columns, before, strict=True):
        mean = float(projections_T.mean())
        if not math.isfinite(mean):
            raise NotFiniteError(
                f"a turn projects to {mean} at layer {layer}, expected a number; load the model in "
                "float32 or bfloat16"
            )
        window = min(_WINDOW, len(projections_T))
        levels.append(
            TurnLevel(
                layer,
                mean,
                float(projections_T.std(correction=0)),
                float(projections_T.unfold(0, window, 1).mean(1).min()),
                float(projections_T[:_BEGINNING].mean()),
                prompt,
                len(projections_T),
            )
        )
    return tuple(levels)
