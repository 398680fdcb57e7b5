"""Where the keys and values of a cache come from: what was made unsteered stays unsteered.

A floor moves the tokens of a pass. Tokens that a cache holds already are read as they were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from torch import Tensor

from keel.errors import NotAppliedError
from keel.steering.passes import cache_given
from keel.steering.sequences import cached_length, is_filled
from keel.types import Intervention

_REMEDY = (
    "run the whole text inside the context, with a cache of its own; or use interventions with "
    "tokens='generated', which leave a prompt as it is"
)


@dataclass(frozen=True)
class _Mark:
    """That tokens of a cache were made under interventions."""

    context: str
    """The context that saw the cache last."""
    tokens: int
    """How many, from the first on."""


class CacheOrigins:
    """Marks the caches that passes fill under some interventions, and refuses those of others."""

    def __init__(self, interventions: Sequence[Intervention]) -> None:
        self._key = _fingerprint(interventions)
        self._context = uuid4().hex
        self._is_needed = any(each.tokens != "generated" for each in interventions)
        self._has_run = False

    def check(self, kwargs: dict[str, Any], length: int) -> None:
        """Hold a pass of so many tokens against the cache that it is given, and mark that.

        Contexts with equal interventions may go on with each other's caches. States that are no
        cache object (RWKV's) bear no mark: only the first pass of a context is known to go on
        with what was made outside.
        Raises NotAppliedError for keys and values that were made without these interventions.
        """
        is_first, self._has_run = not self._has_run, True
        paged, cache = kwargs.get("cache"), cache_given(kwargs)
        if not self._is_needed:
            return
        if hasattr(paged, "cache_allocators"):
            self._check_paged(paged, kwargs)
        elif hasattr(cache, "__dict__"):
            self._check_object(cache, length)
        elif is_first and cache is not None and _holds_numbers(cache):
            raise _refusal(0, 0)

    def made(self, cache: Any) -> None:
        """Mark a cache that a pass has made by itself."""
        if self._is_needed and hasattr(cache, "__dict__") and self._mark_of(cache) is None:
            self._mark(cache, cached_length(cache) or 0)

    def _check_object(self, cache: Any, length: int) -> None:
        mark = self._mark_of(cache)
        if mark is not None and mark.context == self._context:
            self._mark(cache, mark.tokens + length)
            return
        held = cached_length(cache)
        is_held = _is_filled(cache) if held is None else held > 0
        if is_held and (mark is None or (held or 0) > mark.tokens):
            raise _refusal(held or 0, mark.tokens if mark else 0)
        self._mark(cache, (held or 0) + length)

    def _check_paged(self, cache: Any, kwargs: dict[str, Any]) -> None:
        """A paged cache lends any request what an earlier one with the same beginning left."""
        mark = self._mark_of(cache)
        if mark is not None and mark.context == self._context:
            return
        ledgers = [getattr(each, "ledger", None) for each in cache.cache_allocators.values()]
        lends = any(getattr(ledger, "hash_to_block", None) for ledger in ledgers)
        if lends or any(index.numel() for index in kwargs.get("read_index") or ()):
            raise NotAppliedError(
                "continuous batching was begun outside the context, and shares what it made there "
                f"with new requests; begin it inside, or {_REMEDY}"
            )
        self._mark(cache, 0)

    def _mark_of(self, cache: Any) -> _Mark | None:
        mark: _Mark | None = getattr(cache, "_keel_origins", {}).get(self._key)
        return mark

    def _mark(self, cache: Any, tokens: int) -> None:
        # On the cache itself: copies of it, which prefixes are kept for, carry it along.
        marks = {**getattr(cache, "_keel_origins", {}), self._key: _Mark(self._context, tokens)}
        cache._keel_origins = marks


def _is_filled(cache: Any) -> bool:
    """Whether a cache that does not count tokens holds any: some are born with zeros."""
    return is_filled(cache) and (hasattr(cache, "has_previous_state") or _holds_numbers(cache))


def _holds_numbers(state: Any) -> bool:
    """Whether some tensor in nested lists, dicts and attributes is other than zero."""
    if isinstance(state, Tensor):
        return bool(state.any())
    if isinstance(state, dict):
        return any(map(_holds_numbers, state.values()))
    if isinstance(state, list | tuple):
        return any(map(_holds_numbers, state))
    return any(map(_holds_numbers, getattr(state, "__dict__", {}).values()))


def _refusal(held: int, made_here: int) -> NotAppliedError:
    return NotAppliedError(
        f"a pass goes on with a cache of {held or 'some'} tokens, of which {made_here} were made "
        f"under these interventions (learned keys of prefix tuning were not, either); {_REMEDY}"
    )


def _fingerprint(interventions: Sequence[Intervention]) -> str:
    """The same for equal interventions."""
    whole = hashlib.sha256()
    for each in interventions:
        whole.update(repr((each.layer, each.tokens, tuple(each.numbers))).encode())
        whole.update(each.direction.float().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
