"""JSON forms of values: a dataclass is an object, field by field. Tensors are kept elsewhere.

NaN and Inf, which JSON does not know, are the strings `nan`, `inf` and `-inf`. Records are read by
pydantic, strictly: an unknown key or a value of another type is an error. The dataclasses know
nothing of it. A field that was renamed keeps its key on disk by `field(metadata={"key": "old"})`;
that is all there is to do. A field that was added to what is hashed says `{"sparse": True}`: at its
default it is left out, so that hashes of before hold.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial, reduce
from operator import or_
from types import GenericAlias
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Strict,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from keel.arrays import Tensor, is_array
from keel.errors import CorruptArtifactError, KeelError, UsageError

T = TypeVar("T")

_NOT_FINITE = ("nan", "inf", "-inf")


def to_record(value: Any) -> Any:
    """The plain JSON form of a value; a dataclass leaves out its tensors."""
    if value is None or isinstance(value, (str, bool)):
        return value
    # Most values by far: to ask the abstract classes below takes ten times as long.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): to_record(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Token ids by the hundred: a call for each would double the time of writing a batch.
        return [item if type(item) is int else to_record(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        parts = _parts(value)
        return {k: to_record(v) for k, v in parts.items() if not is_array(v)}
    raise UsageError(
        f"{type(value).__name__} has no JSON form; keep numbers, text, lists and dictionaries only"
    )


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors of a dataclass by key: what `to_record` leaves out."""
    return {key: part for key, part in _parts(value).items() if is_array(part)}


def from_record(kind: type[T], record: Any, given: Mapping[str, Any] | None = None) -> T:
    """The dataclass that a record describes; `given` holds fields that the record leaves out.

    Raises CorruptArtifactError on unknown or missing fields, or values of another type.
    """
    try:
        return parse_record(kind, record, given)
    except ValidationError as error:
        raise CorruptArtifactError(_complaint(kind.__name__, error)) from error
    except KeelError as error:
        raise CorruptArtifactError(f"{kind.__name__} does not hold together: {error}") from error


def parse_record(kind: type[T], record: Any, given: Mapping[str, Any] | None = None) -> T:
    """As `from_record`, for records that people write.

    Raises pydantic's ValidationError, or the error by which the value refuses what it is given.
    """
    given = given or {}
    values = _reader(kind, frozenset(given))(record)  # type: ignore[arg-type]
    return _make(kind, {**values, **given})


def canonical(value: Any) -> str:
    """One text per plain value, whatever the order of its keys: for hashes."""
    return json.dumps(to_record(value), sort_keys=True, separators=(",", ":"))


@cache
def record_keys(kind: type) -> dict[str, str]:
    """Key in records -> field of the dataclass."""
    return {field.metadata.get("key", field.name): field.name for field in fields(kind)}


def _parts(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by key."""
    names, sparse = record_keys(type(value)), _sparse(type(value))  # type: ignore[arg-type]
    parts = {key: getattr(value, name) for key, name in names.items()}
    for key, default in sparse.items():
        if parts[key] == default:
            del parts[key]
    return parts


@cache
def _sparse(kind: type) -> dict[str, Any]:
    """Keys that are left out where the value is the default, with it."""
    return {
        field.metadata.get("key", field.name): field.default
        for field in fields(kind)
        if field.metadata.get("sparse")
    }


def _make(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass with these values, by key."""
    names = record_keys(kind)  # type: ignore[arg-type]
    return kind(**{names[key]: value for key, value in values.items()})


@cache
def _reader(kind: type, given: frozenset[str]) -> Callable[[Any], dict[str, Any]]:
    """Turns a record into the values of a dataclass by key, but for those that are given."""
    return TypeAdapter(_object(kind, given)).validate_python


def _object(kind: type, given: frozenset[str] = frozenset()) -> Any:
    """A TypedDict of the keys that a record of a dataclass may have, for pydantic to validate."""
    hints, by_name = get_type_hints(kind), {field.name: field for field in fields(kind)}
    parts = {}
    for key, name in record_keys(kind).items():
        field, form = by_name[name], _form(hints[name])
        is_required = field.default is field.default_factory is MISSING
        if key not in given:
            parts[key] = form if is_required else NotRequired[form]
    shape = TypedDict(kind.__name__, parts)  # type: ignore[misc]
    shape.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    return shape


def _form(hint: Any) -> Any:
    """A field's type as pydantic shall read it: numbers and text strictly, lists as tuples."""
    if hint is float:
        plain = BeforeValidator(lambda value: float(value) if value in _NOT_FINITE else value)
        return Annotated[float, Strict(), plain]
    if hint in (int, bool, str):
        return Annotated[hint, Strict()]
    if isinstance(hint, type) and is_dataclass(hint):
        return Annotated[_object(hint), AfterValidator(partial(_make, hint))]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (dict, Mapping):
        # The keys are text on disk, so numbers among them are not read strictly.
        return GenericAlias(dict, (arguments[0], _form(arguments[1])))
    if origin is tuple:
        return GenericAlias(tuple, tuple(a if a is ... else _form(a) for a in arguments))
    if arguments and origin is not Literal:
        return reduce(or_, map(_form, arguments))
    return hint


def _complaint(kind: str, error: ValidationError) -> str:
    """The first thing that is wrong with a record, with the path of keys that leads to it."""
    problems = error.errors()
    first = problems[0]
    path = ".".join([kind, *map(str, first["loc"])])
    if first["type"] in ("missing", "extra_forbidden"):
        lacking, unknown = (
            sorted({str(p["loc"][-1]) for p in problems if p["type"] == problem})
            for problem in ("missing", "extra_forbidden")
        )
        owner = path.rpartition(".")[0]
        return (
            f"{owner} has unknown fields {unknown} and lacks {lacking}; "
            "it was made by another version of Keel, or damaged"
        )
    if first["type"] == "value_error":
        return f"{path} does not hold together: {first['ctx']['error']}"
    expected = first["msg"].removeprefix("Input should be ")
    return f"{path} is {str(first['input'])[:60]!r}, expected {expected}"
