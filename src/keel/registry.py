"""Values by name, of one kind: Keel's own, a user's, and those of installed packages.

A user's code registers a value when it is imported. A package names the module that does so as an
entry point, and is imported only when its name is looked up. Knows nothing of what is registered.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from keel.errors import UsageError

Value = TypeVar("Value")


class Registry(Generic[Value]):
    """Named values of one `kind`, and the entry point `group` in which packages offer more."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._values: dict[str, Value] = {}
        self._origins: dict[str, str] = {}

    def add(self, name: str, value: Value, source: Callable[..., Any]) -> None:
        """Register a value that the function or class `source` defines.

        The same source may register again, as when a notebook's cell is run twice. Raises
        UsageError where another one has the name.
        """
        origin = f"{source.__module__}.{source.__qualname__}"
        if self._origins.get(name, origin) != origin:
            raise UsageError(
                f"the {self.kind} {name!r} of {origin} is registered already, by "
                f"{self._origins[name]}; choose another name"
            )
        self._values[name], self._origins[name] = value, origin

    def get(self, name: str) -> Value:
        """The value of that name, imported from an installed package where it must be.

        Raises UsageError, listing all names, where there is none, and where a package's entry
        point cannot be imported or registers no such name.
        """
        if name not in self._values:
            if (entry := self._entries().get(name)) is None:
                near = difflib.get_close_matches(name, self.names(), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(
                    f"{self.kind} is {name!r}, expected one of {', '.join(self.names())}{hint}"
                )
            self._load(entry)
        return self._values[name]

    @property
    def registered(self) -> Mapping[str, Value]:
        """The values registered so far, without those of packages not imported yet."""
        return MappingProxyType(self._values)

    def names(self) -> tuple[str, ...]:
        """All names: registered ones in their order, then those of packages not imported yet."""
        return tuple(dict.fromkeys([*self._values, *sorted(self._entries())]))

    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _load(self, entry: EntryPoint) -> None:
        package = entry.dist.name if entry.dist else "a package"
        try:
            entry.load()
        except Exception as error:
            raise UsageError(
                f"the {self.kind} {entry.name!r} of {package} cannot be imported from "
                f"{entry.value!r}: {type(error).__name__}: {error}; mend or uninstall {package}"
            ) from error
        if entry.name not in self._values:
            raise UsageError(
                f"{entry.value!r} of {package} registers no {self.kind} {entry.name!r} when it is "
                f"imported; decorate it with @{self.kind}({entry.name!r})"
            )
