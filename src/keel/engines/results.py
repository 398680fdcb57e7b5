"""What one `generate` or `read` call gives: its results, and how often that call intervened.

Every engine returns `Results`, so that the proof of steering stands in one place: a call that was
to be steered and whose layers saw no token raises NotAppliedError instead of ending quietly.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    runtime_checkable,
)

from jaxtyping import Float
from torch import Tensor

from keel.errors import UsageError
from keel.steering import Firing, check_reached
from keel.types import Activations

Result = TypeVar("Result")
_Parameters = ParamSpec("_Parameters")


@dataclass(frozen=True)
class Completion:
    """One finished answer."""

    index: int
    """Which of the prompts given, counted from 0."""
    text: str
    token_ids: tuple[int, ...]
    """Content tokens as sampled, without the end token."""
    finish: Literal["stop", "length"]
    activations: Activations | None = None
    projections_TK: Float[Tensor, "token probe"] | None = None
    prompt_K: Float[Tensor, " probe"] | None = None
    """Projections of the prompt's last token: what the model was in before it answered."""


@dataclass(frozen=True)
class TurnRecord:
    """What was read of one assistant turn, over its content tokens."""

    turn: int
    """0-based number among the conversation's assistant turns."""
    token_ids: tuple[int, ...]
    activations: Activations | None = None
    projections_TK: Float[Tensor, "token probe"] | None = None
    log_likelihood_T: Float[Tensor, " token"] | None = None
    """Natural logarithm, one per content token."""
    prompt_K: Float[Tensor, " probe"] | None = None
    """Projections of the token before the first content token, where they were to be recorded."""


@dataclass(frozen=True)
class Reading:
    """What was read of one conversation, an entry per assistant turn that has content tokens."""

    index: int
    """Which of the conversations given, counted from 0."""
    turns: tuple[TurnRecord, ...]


@dataclass(frozen=True)
class Divergence:
    """Steered against unsteered next-token distributions on one conversation's assistant turns."""

    index: int
    """Which of the conversations given, counted from 0."""
    setting: int
    """Which of the settings given, counted from 0."""
    kl: float
    """Mean over content tokens of KL(unsteered ‖ steered), in nats."""
    tokens: int


class Results(Iterator[Result], Generic[Result]):
    """The results of one call of an engine, as they finish, with the firing of that very call.

    Keep it by name to ask for `firing` after the loop::

        answers = engine.generate(prompts, sampling, seed=0, interventions=floors)
        texts = [answer.text for answer in answers]
        answers.firing.rate

    Taking the last result raises NotAppliedError if a layer that was to be steered saw no token.
    """

    def __init__(
        self,
        results: Generator[Result, None, Firing | None],
        steered_layers: Iterable[int] = (),
    ) -> None:
        """`results` returns the call's firing at its end; `steered_layers` must all be in it."""
        self._results = results
        self._layers = frozenset(steered_layers)
        self._firing: Firing | None = None
        self._is_open = True
        self._is_complete = False
        self._has_tokens = False

    def __next__(self) -> Result:
        if self._is_complete:
            raise StopIteration
        if not self._is_open:
            raise UsageError(
                "these results were broken off (closed, failed, or the engine has begun another "
                "call, or another on its model) and have no more to give; call the engine again"
            )
        try:
            result = next(self._results)
        except StopIteration as end:
            self._is_open = False
            if self._has_tokens:
                check_reached(end.value, self._layers)
            self._firing = end.value or Firing({}, {})
            self._is_complete = True
            raise
        except BaseException:
            self._is_open = False
            raise
        # A conversation without an assistant's word is given back, but no token of it counts.
        self._has_tokens |= not isinstance(result, Reading) or bool(result.turns)
        return result

    @property
    def firing(self) -> Firing | None:
        """How often this call's interventions moved a token; None if it had no interventions.

        Known once every result was taken. Raises UsageError before that and after a break: what a
        part of a batch was moved by says nothing of the answers that were never finished.
        """
        if not self._layers:
            return None
        if not self._is_complete:
            state = "not all taken yet" if self._is_open else "broken off before their end"
            raise UsageError(
                f"the results of this call were {state}, so its firing is unknown; take all of "
                "them before asking for it"
            )
        return self._firing

    def close(self) -> None:
        """Break the call off: the model is unsteered again, and no more results come.

        Raises UsageError where another thread is at this moment taking a result.
        """
        try:
            self._results.close()
        except ValueError as error:  # Python's, of a generator that runs
            raise UsageError(
                "another thread is within a call on this model; wait until it has its results, or "
                "load the model a second time"
            ) from error
        self._is_open = False


class Calls:
    """The calls on one model, of which one at a time is open, whatever engine they are made by.

    A steered call that was left half done keeps its hooks on the model while anything refers to
    it. The next call must not run under them, so it closes the one before.
    """

    def __init__(self) -> None:
        self._latest: weakref.ref[Results[Any]] | None = None

    def begin(
        self,
        results: Generator[Result, None, Firing | None],
        steered_layers: Iterable[int] = (),
    ) -> Results[Result]:
        """The results of a new call; an unfinished earlier call is broken off."""
        self.close()
        begun = Results(results, steered_layers)
        self._latest = weakref.ref(begun)
        return begun

    def close(self) -> None:
        """Break off the call that is open, if there is one."""
        latest = self._latest() if self._latest is not None else None
        if latest is not None:
            latest.close()
        self._latest = None


@runtime_checkable
class _HasCalls(Protocol):
    engine_calls: Calls


_Engine = TypeVar("_Engine", bound=_HasCalls)


def engine_call(
    method: Callable[Concatenate[_Engine, _Parameters], Generator[Result, None, Firing | None]],
) -> Callable[Concatenate[_Engine, _Parameters], Results[Result]]:
    """Makes an engine's generator method return `Results`, as the engine's latest call.

    The method returns the call's firing at its end, in which every layer of its `interventions`
    must have seen a token. The engine keeps a `Calls` as `engine_calls`.
    """

    @wraps(method)
    def begin(
        engine: _Engine, /, *arguments: _Parameters.args, **options: _Parameters.kwargs
    ) -> Results[Result]:
        interventions: Any = options.get("interventions", ())
        layers = [each.layer for each in interventions]
        return engine.engine_calls.begin(method(engine, *arguments, **options), layers)

    return begin
