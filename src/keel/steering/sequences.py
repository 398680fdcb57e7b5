"""Where in its sequences a forward pass lies, and which of its tokens are prompt.

A pass does not say. What says it is the outermost call: `generate` was given the prompt, and is
still running while its passes are made; a plain call of the model is itself given the prompt.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from keel.errors import NotAppliedError, UsageError
from keel.steering.passes import cache_given, is_packed, pass_inputs, pass_shape


@dataclass
class GenerateCall:
    """A call of transformers' `generate` that this thread is in, and how far it has come."""

    arguments: dict[str, Any]
    """Its keyword arguments, the very dict: what tells one call from the next."""
    mode: str
    """transformers' word for how it decodes: `sample`, `beam_search`, `assisted_generation`."""
    given: int
    """Tokens of the prompt that it was given."""
    is_given_at_once: bool
    """Whether its first pass holds the whole prompt and nothing else."""
    prompt: int | None = None
    """Tokens of the prompt as its cache counts them; known from the first pass on."""
    end: int = 0
    """Tokens of its sequences that its passes have covered so far."""

    @property
    def is_steady(self) -> bool:
        """Whether each row goes on as the same row, and no token is taken back."""
        return self.mode in ("greedy_search", "sample")

    def follow(self, kwargs: dict[str, Any], length: int, is_embedded: bool) -> int | None:
        """Where the pass that starts with these arguments begins; None where nothing tells."""
        start = self._start(kwargs, length)
        if start is not None:
            self.end = start + length
        if self.prompt is None and self.is_given_at_once:
            self.prompt = self.end
        elif self.prompt is None and not is_embedded:  # else something may stand before the prompt
            self.prompt = self.given
        return start

    def _start(self, kwargs: dict[str, Any], length: int) -> int | None:
        cache = cache_given(kwargs)
        if cache is None:  # some models keep their states in their blocks, and are given the rest
            return 0 if length > self.end or kwargs.get("use_cache") is False else self.end
        if self.is_steady and self.prompt is not None:
            # Without looking: a static cache counts on the device. A pass longer than all before it
            # is of a model that takes no notice of its cache, and begins anew.
            return 0 if length > self.end else self.end
        known = cached_length(cache)
        if known is None and (self.is_steady or not self.end):
            return self.end
        return known


@dataclass(frozen=True)
class PassSpan:
    """Which tokens of its sequences a forward pass holds: those from `start` on."""

    call: GenerateCall | None
    """The call of `generate` that makes the pass; None where the model was called by hand."""
    start: int | None
    """None where nothing tells."""
    length: int
    inputs: Tensor | None = None
    before: Tensor | None = None
    """The ids or embeddings of the pass before it, where neither had a cache and no `generate` made
    them."""

    @property
    def is_known(self) -> bool:
        """Whether something tells prompt from generated tokens."""
        if self.call is None:
            return (self.start == 0 or self.length == 1) and not self._repeats()
        return self.call.prompt is not None and self.start is not None

    def is_generated(self, device: torch.device) -> bool | Bool[Tensor, "1 token"]:
        """Which of its tokens the model sampled: those behind the prompt.

        By hand, the first pass is the prompt, and a single token that goes on was sampled.
        Raises UsageError where nothing tells.
        """
        if not self.is_known:
            raise UsageError(
                f"a pass of {self.length} tokens goes on from earlier ones, and nothing tells "
                "which of them are prompt and which generated; use model.generate(...) without an "
                "assistant, or tokens='all'"
            )
        if self.call is None or self.call.prompt is None or self.start is None:
            return self.start != 0
        prompt = self.call.prompt - self.start
        if not 0 < prompt < self.length:
            return prompt <= 0
        return (torch.arange(self.length, device=device) >= prompt)[None]

    def first_position(self) -> int:
        """Where the pass begins in its sequences. Raises UsageError where nothing tells."""
        if self.start is None or (self.call is None and self._repeats()):
            raise UsageError(
                f"a pass of {self.length} tokens goes on from earlier ones, and nothing tells "
                "whether it holds the first token of its sequences; use model.generate(...), or "
                "tokens='all'"
            )
        return self.start

    def _repeats(self) -> bool:
        """Whether it runs the text of the pass before it again, and more: a loop.

        A window of a fixed width lacks as many tokens of that text in front as are new.
        """
        now, then = self.inputs, self.before
        if now is None or then is None or now.ndim != then.ndim or len(now) != len(then):
            return False
        kept = then.shape[1] if now.shape[1] > then.shape[1] else then.shape[1] - 1
        is_again = kept > 0 and torch.equal(now[:, :kept], then[:, -kept:])
        return is_again and not torch.equal(now, then)


class SequenceFollower:
    """Follows the passes of one thread through the calls that they belong to."""

    def __init__(self, stack: nn.Module) -> None:
        self._stack = stack
        self._call: GenerateCall | None = None
        self._runs: dict[int, bool] = {}
        """By a model's id: whether the blocks that are followed are its own."""
        self._latest: Tensor | None = None

    def follow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassSpan:
        """Where the pass that starts with these arguments lies.

        Raises UsageError for requests that continuous batching has packed into one row.
        """
        if is_packed(kwargs):
            raise UsageError(
                "continuous batching packs requests into one row, and nothing tells one from the "
                "next or a prompt from its answer; call model.generate(...), or use tokens='all'"
            )
        inputs, (_, length) = pass_inputs(args, kwargs), pass_shape(args, kwargs)
        is_embedded = inputs is not None and inputs.is_floating_point()
        self._call = self._current_call()
        if self._call is not None:
            return PassSpan(self._call, self._call.follow(kwargs, length, is_embedded), length)
        start = _start_by_hand(kwargs, length)
        text = None if start != 0 or cache_given(kwargs) is not None else inputs
        if text is not None and is_embedded:  # some of its numbers tell it from others
            text = text[..., :8].detach().clone()
        before, self._latest = self._latest, text
        return PassSpan(None, start, length, text, before)

    def _current_call(self) -> GenerateCall | None:
        """The outermost call of `generate` on this model that this thread is in."""
        outermost = self._outermost_in(sys._getframe())
        if outermost is None or self._call is None:
            return None if outermost is None else _call_of(outermost)
        is_same = self._call.arguments is outermost["kwargs"]
        return self._call if is_same else _call_of(outermost)

    def is_running_in(self, frame: FrameType | None) -> bool:
        """Whether a frame was called by a `generate`, a pass or continuous batching of the model.

        Continuous batching whose requests are all answered runs nothing.
        """
        serving = sys.modules.get("transformers.generation.continuous_batching.continuous_api")
        loop = serving and serving.ContinuousBatchingManager._run_generation_loop.__code__
        for each in _callers(frame):
            if each.f_code is _PASS and each.f_locals["self"] is self._stack:
                return True
            if each.f_code is loop and self._runs_stack(each.f_locals["self"].model):
                requests = each.f_locals.get("batch_processor")
                return requests is not None and requests.has_pending_requests()
        return self._outermost_in(frame) is not None

    def _outermost_in(self, frame: FrameType | None) -> dict[str, Any] | None:
        """The variables of the outermost `generate` on this model that a frame was called by."""
        code = _generate_code()
        calls = [
            each.f_locals
            for each in _callers(frame)
            if each.f_code is code and self._runs_stack(each.f_locals["self"])
        ]
        return calls[-1] if calls else None

    def _runs_stack(self, model: Any) -> bool:
        if id(model) not in self._runs:
            modules = model.modules() if isinstance(model, nn.Module) else ()
            self._runs[id(model)] = any(module is self._stack for module in modules)
        return self._runs[id(model)]


_PASS = nn.Module._call_impl.__code__


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, and those that it was called by, from the inside out."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def refuse_to_leave(stack: nn.Module, what: str) -> None:
    """Raise NotAppliedError while another thread generates: its next tokens would escape.

    A thread whose streamer has given its last token gets a second to return from `generate`.
    `what` says what would not happen to those tokens: `steered`.
    """
    deadline = time.monotonic() + 1.0
    while threads := _threads_running(stack):
        if time.monotonic() > deadline:
            raise NotAppliedError(
                f"the context ends while {', '.join(threads)} still generates, whose further "
                f"tokens are not {what}; join the thread inside the context"
            )
        time.sleep(0.005)


def _threads_running(stack: nn.Module) -> list[str]:
    """Names of the other threads that generate with these blocks, or are in a pass of them."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own, follower = threading.get_ident(), SequenceFollower(stack)
    return [
        names.get(ident, str(ident))
        for ident, frame in sys._current_frames().items()
        if ident != own and follower.is_running_in(frame)
    ]


def cached_length(cache: Any) -> int | None:
    """Tokens in a cache; None where it does not count them, as states of recurrent models do."""
    if not hasattr(cache, "get_seq_length"):
        return None
    try:
        return int(cache.get_seq_length())
    except ValueError:  # what transformers raises for a cache of recurrent states alone
        return None


def is_filled(cache: Any) -> bool:
    """Whether a cache that does not count tokens holds any."""
    return bool(cache.has_previous_state()) if hasattr(cache, "has_previous_state") else True


def _generate_code() -> Any:
    """The code that runs while transformers' `generate` does, whatever model overrides it."""
    module: Any = sys.modules.get("transformers.generation.utils")
    return None if module is None else inspect.unwrap(module.GenerationMixin.generate).__code__


def _call_of(local: dict[str, Any]) -> GenerateCall:
    """A call by the variables of its frame."""
    arguments, config = local["kwargs"], local["generation_config"]
    mode = str(config.get_generation_mode(local.get("assistant_model")).value)
    prompts = (local.get("input_ids"), arguments.get("inputs_embeds"))
    given = max((prompt.shape[1] for prompt in prompts if prompt is not None), default=1)
    mask = arguments.get("attention_mask")
    if mask is not None:  # longer than the prompt where that goes on with a cache
        given = max(given, mask.shape[1])
    is_given_at_once = mode != "assisted_generation" and config.prefill_chunk_size is None
    return GenerateCall(arguments, mode, given, is_given_at_once)


def _start_by_hand(kwargs: dict[str, Any], length: int) -> int | None:
    """Where a pass that no `generate` makes begins; None where it goes on from somewhere."""
    cache = cache_given(kwargs)
    if cache is not None:
        known = cached_length(cache)
        return known if known is not None or is_filled(cache) else 0
    positions = kwargs.get("position_ids")
    if length == 1 and positions is not None and bool((positions > 0).all()):
        return None  # a model that keeps its states in its blocks goes on
    return 0
