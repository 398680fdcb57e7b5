"""Which part of what a vLLM decoder layer returns is its residual stream, read from its source.

Most layers return (hidden, residual), which the next layer adds; some have added them already, and
what they return second is never read. Both look alike while they run.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import nn

from keel.errors import ModelLayoutError


@dataclass(frozen=True)
class StreamSource:
    """What a decoder layer's source says about its residual stream."""

    kind: str
    """Name of the layer's class."""
    is_sum: bool
    """Whether the stream is the sum of two outputs; else it is the first alone."""
    is_scaled_in_float16: bool
    """Whether the layer computes otherwise in float16, where some divide their stream."""


class _Fate(Enum):
    """What becomes first of a variable's value on the way through some statements."""

    KEPT = 0
    READ = 1
    LOST = 2
    """Overwritten, or the function returns."""


def read_source(kind: type[nn.Module]) -> StreamSource:
    """What the source of this class of decoder layers says.

    Raises ModelLayoutError for a class without source, or whose layers return more than
    (hidden, residual).
    """
    methods: dict[str, ast.FunctionDef] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        methods[name] = _parsed(kind, name)
        waiting += [own for own in _delegates(methods[name]) if own not in methods]
    return stream_in(methods, kind.__name__)


def stream_in(methods: Mapping[str, ast.FunctionDef], kind: str) -> StreamSource:
    """The same, from a class's parsed methods: `forward`, and those whose result it returns.

    The stream is a sum where the layer reads the residual that it is given. Where it overwrites it
    unread, or is given none, what it returns second is of no use to the next layer.
    """
    forward = methods["forward"]
    names = [name for name in ("forward", *_delegates(forward)) if name in methods]
    returned = [value for name in names for value in _returned(methods[name])]
    tuples = [value.elts for value in returned if isinstance(value, ast.Tuple)]
    pairs = [outputs for outputs in tuples if _is_pair(outputs, kind)]
    arguments = forward.args
    given = {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    seconds = {second.id for _, second in pairs if isinstance(second, ast.Name)}
    residuals = (seconds & given) or ({"residual"} & given)
    return StreamSource(
        kind=kind,
        is_sum=any(_fate(forward.body, name) is _Fate.READ for name in residuals),
        is_scaled_in_float16=any(
            isinstance(node, ast.Attribute) and node.attr in ("float16", "half")
            for name in names
            for node in ast.walk(methods[name])
        ),
    )


def _parsed(kind: type[nn.Module], method: str) -> ast.FunctionDef:
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(kind, method))))
        (definition,) = ast.parse(source).body
    except (AttributeError, OSError, TypeError, SyntaxError, ValueError) as error:
        raise ModelLayoutError(
            f"the source of {kind.__name__}.{method} cannot be read, and without it Keel cannot "
            "know which of its outputs are the residual stream; install vLLM with its .py files"
        ) from error
    assert isinstance(definition, ast.FunctionDef)
    return definition


def _delegates(method: ast.FunctionDef) -> list[str]:
    """Methods of its own whose result it returns."""
    return [
        called.attr
        for value in _returned(method)
        if isinstance(value, ast.Call)
        and isinstance(called := value.func, ast.Attribute)
        and isinstance(called.value, ast.Name)
        and called.value.id == "self"
        and called.attr.startswith(("forward", "_forward"))
    ]


def _returned(method: ast.FunctionDef) -> Iterator[ast.expr]:
    returns = (node.value for node in ast.walk(method) if isinstance(node, ast.Return))
    return (value for value in returns if value is not None)


def _is_pair(outputs: Sequence[ast.expr], kind: str) -> bool:
    """Whether these are two outputs, hidden and residual; one alone needs no telling apart."""
    is_known = len(outputs) < 2 or isinstance(outputs[1], ast.Name | ast.Constant)
    if len(outputs) > 2 or not is_known:
        names = ", ".join(ast.unparse(output) for output in outputs)
        raise ModelLayoutError(
            f"{kind} returns ({names}), expected its one residual stream, or (hidden, residual); "
            "such models are not supported under vLLM: use the transformers engine"
        )
    return len(outputs) == 2


def _fate(statements: Sequence[ast.stmt], name: str) -> _Fate:
    fates = (_fate_in(statement, name) for statement in statements)
    return next((fate for fate in fates if fate is not _Fate.KEPT), _Fate.KEPT)


def _fate_in(statement: ast.stmt, name: str) -> _Fate:
    match statement:
        case ast.If(test, body, orelse):
            ways = {_fate(body, name), _fate(orelse, name)}
            if _is_read(test, name) or _Fate.READ in ways:
                return _Fate.READ
            return ways.pop() if len(ways) == 1 else _Fate.KEPT
        case ast.With(items, body):
            is_read = any(_is_read(item.context_expr, name) for item in items)
            return _Fate.READ if is_read else _fate(body, name)
        case ast.Return(value):
            # Handed on as it came is not read: the next layer does or does not.
            outputs = value.elts if isinstance(value, ast.Tuple) else [value]
            used = [out for out in outputs if out and not isinstance(out, ast.Name)]
            return _Fate.READ if any(_is_read(out, name) for out in used) else _Fate.LOST
        case ast.Raise():
            return _Fate.LOST
        case ast.Assign(targets, value):
            if _is_read(value, name):
                return _Fate.READ
            is_lost = any(_is_stored(target, name) for target in targets)
            return _Fate.LOST if is_lost else _Fate.KEPT
        case ast.AugAssign(ast.Name(target)) if target == name:
            return _Fate.READ
        case _:
            return _Fate.READ if _is_read(statement, name) else _Fate.KEPT


def _is_read(node: ast.AST, name: str) -> bool:
    """Whether the variable's value is used in here, other than to see if there is any."""
    match node:
        case ast.Compare(ast.Name(), [ast.Is() | ast.IsNot()], [ast.Constant(None)]):
            return False
        case ast.Name(variable, ast.Load()):
            return variable == name
    return any(_is_read(child, name) for child in ast.iter_child_nodes(node))


def _is_stored(target: ast.expr, name: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(target)
    )
