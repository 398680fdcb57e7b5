"""Keeps the contexts that are open on a model in one nest, whatever threads and tasks run it.

A hook sees every pass of its model, whoever makes it. Contexts that threads or asyncio tasks enter
on their own would therefore act on each other's passes; what is entered inside another is meant to.
A plain thread may run the model without being inside: nothing tells where it was started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from keel.errors import UsageError

_inside: ContextVar[tuple[Any, ...]] = ContextVar("keel_contexts", default=())
"""What this thread or task has entered, or the task that it was started by."""

_entering = threading.Lock()


@contextmanager
def in_nest(
    stack_of_blocks: nn.Module, context: Any, on_pass: Callable[[nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Hooks `on_pass` before the module that runs the blocks, and by it counts a context as open.

    Raises UsageError where another is open on the model that this thread or task is not inside of.
    """
    on_pass._keel_context = context  # type: ignore[attr-defined]
    on_pass._keel_task = _running_task()  # type: ignore[attr-defined]
    with _entering:
        hooks = list(stack_of_blocks._forward_pre_hooks.values())
        opened = [hook._keel_context for hook in hooks if hasattr(hook, "_keel_context")]
        if any(each not in _inside.get() for each in opened):
            raise UsageError(
                "another thread or task has a context of Keel open on this model, and both would "
                "act on each other's passes; enter one context around both, or wait until the "
                "other is left, or load the model a second time (to nest on purpose, start the "
                "thread by contextvars.copy_context().run)"
            )
        handle = stack_of_blocks.register_forward_pre_hook(on_pass, with_kwargs=True)
    _inside.set((*_inside.get(), context))
    try:
        yield
    finally:
        handle.remove()
        # Not by a token: a generator may be closed by another thread than entered its context.
        _inside.set(tuple(each for each in _inside.get() if each is not context))


def check_inside(stack_of_blocks: nn.Module) -> None:
    """Raise UsageError in a pass that an open context is not meant for.

    That is a pass of a task which is not inside, while the task that entered the context is at
    work; and of whoever is inside some of the contexts, but not of what was nested in them since.
    """
    hooks = stack_of_blocks._forward_pre_hooks.values()
    opened = [hook for hook in hooks if hasattr(hook, "_keel_context")]
    inside = _inside.get()
    outside = [hook for hook in opened if not any(hook._keel_context is each for each in inside)]
    if not outside:
        return
    is_apart = len(outside) < len(opened)
    if _running_task() is not None:  # a notebook's cell may leave a context open for the next
        tasks = [getattr(hook, "_keel_task", None) for hook in outside]
        is_apart |= any(task is None or not task.done() for task in tasks)
    if is_apart:
        raise UsageError(
            "another thread or task has a context of Keel open on this model, which would act on "
            "this pass too; run the model inside that context, or wait until it is left, or load "
            "the model a second time"
        )


def _running_task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs in this thread; None where none does."""
    return asyncio.current_task() if asyncio._get_running_loop() is not None else None
