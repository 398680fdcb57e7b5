"""Prepares a change of floors in one engine core: registered and tested, not used yet.

Requests take them up once the front names them. What an older change brought is forgotten when no
request is held by it any more. Knows no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from keel.engines.vllm.deployment import KEY, OFF, SCRATCH
from keel.engines.vllm.live import named_change, registered_name
from keel.engines.vllm.packing import PackedInterventions
from keel.errors import NotAppliedError, UsageError
from keel.types import ShiftNumbers

if TYPE_CHECKING:
    from keel.engines.vllm.core import CoreState

STAGE = "stage"
"""The call that `stage` answers, among those to workers."""
_LOW = ShiftNumbers._fields.index("low")


def stage(state: CoreState, change: int, live: int, packed: Mapping[str, bytes]) -> str:
    """Register and test the settings of a change; the reason if that failed, else an empty text.

    `live` is the number of the change whose floors new requests are held by until then. `packed`
    are the settings by their own names, as `PackedInterventions.to_bytes` gives them.
    """
    if type(state.core).__name__.startswith("DP"):
        return (
            "engines that step together (data parallelism of a mixture of experts) cannot test "
            "floors while they serve; start a second server and switch over"
        )
    settings = [
        PackedInterventions.from_bytes(registered_name(name, change), raw)
        for name, raw in packed.items()
    ]
    try:
        _forget_unused(state, live)
        _check_room(state, len(settings))
        for setting in settings:
            state.register(setting)
        _test(state, settings)
    except Exception as error:
        _forget_unused(state, live)
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _check_room(state: CoreState, count: int) -> None:
    """Refuse more settings than the engine has slots for. Raises UsageError."""
    room = state.deployment.settings - 1  # one is the self-test's
    if count + len(state.settings) <= room:
        return
    older = sorted({named_change(name)[1] for name in state.settings})
    raise UsageError(
        f"{count} settings are to come, and this engine has room for {room}, {len(state.settings)} "
        f"of them taken by floors that requests are held by ({len(older)} sets); try again when "
        "requests from before the last change have ended, or start a second server"
    )


def _forget_unused(state: CoreState, live: int) -> None:
    """Forget the settings of all changes but the live one that hold no request."""
    with state.admitting:
        used = {*state.admitted.values(), *_running(state.core)}
        unused = [n for n in state.settings if not _is_kept(n, live) and n not in used]
        for name in unused:  # from here on no request is admitted under it
            del state.settings[name]
    for name in unused:
        state.register(PackedInterventions.none(name))


def _is_kept(registered: str, live: int) -> bool:
    """Whether new requests can be held by a setting."""
    return registered != SCRATCH and named_change(registered)[1] == live


def _running(core: Any) -> Iterator[str]:
    """Registered names that requests in the scheduler are held by."""
    for request in list(core.scheduler.requests.values()):
        arguments = (request.sampling_params and request.sampling_params.extra_args) or {}
        if KEY in arguments:
            yield arguments[KEY]


def _test(state: CoreState, settings: list[PackedInterventions]) -> None:
    """Test the engine, and that each setting acts in it wherever it should. Raises NotAppliedError.

    As in the self-test, with the setting's own directions: raised above every token, its floors
    must move each, at each of its layers.
    """
    state.self_test()
    with state.testing():
        plain = state.answer(OFF)
        for setting in settings:
            name, _ = named_change(setting.name)
            state.register(_raised(setting, SCRATCH, state.height))
            raised = state.answer(SCRATCH)
            state.check_moved(SCRATCH, setting.layers)
            state.register(PackedInterventions.none(SCRATCH))
            if raised == plain:
                raise NotAppliedError(f"{name}: floors far above every token change no prediction")
            own = state.answer(setting.name)
            if not all(math.isfinite(number) for number in _numbers(own)):
                raise NotAppliedError(f"{name}: under it the model predicts NaN or Inf")
            state.check_firing(setting.name)


def _raised(setting: PackedInterventions, name: str, height: float) -> PackedInterventions:
    """A setting's floors, at a height that all tokens are under."""
    numbers_NK = setting.numbers_NK.clone()
    numbers_NK[:, _LOW] = height
    masks_N = torch.zeros_like(setting.masks_N)
    return replace(setting, name=name, numbers_NK=numbers_NK, masks_N=masks_N)


def _numbers(predicted: list[Any]) -> Iterator[float]:
    """The numbers of tokens and of rows of log-probabilities."""
    for part in predicted:
        if isinstance(part, list):
            yield from _numbers(part)
        else:
            yield float(part)
