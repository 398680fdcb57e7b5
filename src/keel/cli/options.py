"""Makes a command's options from settings: names, defaults and sentences are those of the fields.

    @takes(CompareSettings())
    def compare(runs: Runs, json: console.Json = False, *, given: Given) -> None:
        settings = given.over(CompareSettings())

For typer an option that is not given is None, so that a command can tell what was given; the
default that the help shows is the field's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from keel.settings import Flag, FlaggedField, flagged_fields

T = TypeVar("T")


class Given:
    """What a command line gave, by the name of the option."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def over(self, base: T) -> T:
        """The settings with what was given in place of their own. Raises UsageError as they do."""
        changes = {
            field.path: _value(field.flag, self.values[field.flag.name])
            for field in flagged_fields(base)
            if field.flag.name in self.values
        }
        return _replaced(base, changes)

    def names(self, settings: object) -> list[str]:
        """Options of these settings that were given."""
        flags = [field.flag.name for field in _fields(settings)]
        return [name for name in flags if name in self.values]

    @property
    def seed(self) -> int:
        """The seed; 0 where none was given."""
        return int(self.values.get("--seed", 0))


def _value(flag: Flag, given: Any) -> Any:
    if isinstance(given, list | tuple):
        return tuple(_value(flag, item) for item in given)
    return given if flag.read is None else flag.read(given)


def _replaced(base: T, changes: Mapping[tuple[str, ...], Any]) -> T:
    """A settings value with fields changed, those of settings within it too."""
    own: dict[str, Any] = {path[0]: value for path, value in changes.items() if len(path) == 1}
    for name in {path[0] for path in changes if len(path) > 1}:
        inner = {path[1:]: value for path, value in changes.items() if path[0] == name}
        own[name] = _replaced(getattr(base, name), inner)
    return replace(base, **own)  # type: ignore[type-var]


def takes(
    *settings: object, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Command]:
    """Gives a command the options of these settings; what the line gave arrives as `given`.

    Settings that one dial sets are given as a dict by scale. `without` names the options that
    make no sense here.
    """
    return lambda function: Command(function, settings, without)


class Command:
    """A command's function, its settings unfolded into options when typer asks for them."""

    def __init__(
        self,
        function: Callable[..., None],
        settings: tuple[object, ...],
        without: tuple[str, ...] = (),
    ) -> None:
        self.function, self.settings, self.without = function, settings, without
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        vars(self)["__annotations__"] = {}  # typer asks for them; the signature has all

    def __call__(self, **values: Any) -> None:
        """Run it with the options of settings gathered into `given`."""
        options = {name: values.pop(name) for name in self._options.keys() & values.keys()}
        given = Given(
            {self._options[n]: v for n, v in options.items() if v is not None and v != []}
        )
        for settings in self.settings:  # what they refuse is told before anything heavy is imported
            given.over(settings[values["scale"]] if isinstance(settings, dict) else settings)
        self.function(**values, given=given)

    @cached_property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.function, eval_str=True).parameters.values()
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "given"]
        last = [p for p in kept if p.name in ("overwrite", "dry_run", "json")]
        first = [p for p in kept if p not in last]
        return inspect.Signature([*first, *self._parameters(), *last])

    @cached_property
    def by_flag(self) -> dict[str, list[FlaggedField]]:
        """Fields by option: settings that share one, such as --seed, share what is given."""
        grouped: dict[str, list[FlaggedField]] = {}
        for settings in self.settings:
            for field in _fields(settings):
                if field.flag.name not in self.without:
                    grouped.setdefault(field.flag.name, []).append(field)
        return grouped

    @cached_property
    def _options(self) -> dict[str, str]:
        """The option's name by the name of the parameter that typer passes."""
        flags = [fields[0].flag for fields in self.by_flag.values()]
        return {_parameter_name(n): flag.name for flag in flags for n in (flag.name, *flag.former)}

    def _parameters(self) -> Iterator[inspect.Parameter]:
        for fields in self.by_flag.values():
            flag = fields[0].flag
            yield _parameter(fields[0], (flag.name, *flag.also), help_text(fields))
            for name in flag.former:
                yield _parameter(fields[0], (name,), "", is_hidden=True)


def _fields(settings: object) -> Iterable[FlaggedField]:
    """Of settings at several scales those of the first, each with its default by scale."""
    if not isinstance(settings, dict):
        return flagged_fields(settings)
    scaled = zip(*(flagged_fields(value) for value in settings.values()), strict=True)
    return [
        replace(fields[0], default=dict(zip(settings, (f.default for f in fields), strict=True)))
        for fields in scaled
    ]


def _parameter(
    field: FlaggedField, names: tuple[str, ...], text: str, *, is_hidden: bool = False
) -> inspect.Parameter:
    flag = field.flag
    option = typer.Option(
        *names,
        help=text,
        rich_help_panel=flag.heading or None,
        min=flag.least,
        max=flag.most,
        metavar=flag.metavar,
        hidden=is_hidden,
        show_default=False,
    )
    return inspect.Parameter(
        _parameter_name(names[0]),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_type_of(field) | None, option],
    )


def _parameter_name(option: str) -> str:
    return option.partition("/")[0].removeprefix("--").replace("-", "_") + "_given"


def _type_of(field: FlaggedField) -> Any:
    """What typer is to read; a tuple is an option that may be repeated."""
    kinds = [kind for kind in get_args(field.type) if kind is not NoneType]
    kind: Any = kinds[0] if NoneType in get_args(field.type) else field.type
    word: Any = str if field.flag.read is not None else kind
    if get_origin(kind) is tuple:
        item: Any = get_args(kind)[0] if word is kind else word
        return list[item]
    return word


def help_text(fields: Sequence[FlaggedField]) -> str:
    """Sentence and default; where settings share an option, also what differs under a heading."""
    first, text, default = fields[0], fields[0].sentence, shown_default(fields[0].default)
    for field in fields[1:]:
        if not field.flag.heading:
            continue
        other = shown_default(field.default)
        if field.sentence != first.sentence:
            text += f" {field.flag.heading}: {field.sentence}"
        if other != default:
            default += f"; {field.flag.heading.lower()}: {other}"
    return f"{text} [default: {default}]" if default else text


def shown_default(value: Any) -> str:
    """A default as the help shows it; empty where the field's sentence explains the unset value."""
    if isinstance(value, dict):
        shown = {scale: shown_default(each) for scale, each in value.items()}
        if len(set(shown.values())) == 1:
            return next(iter(shown.values()))
        return ", ".join(f"{text} ({scale})" for scale, text in shown.items() if text)
    if isinstance(value, tuple):
        return ", ".join(map(shown_default, value))
    if value is None or value is False or value == "":
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
