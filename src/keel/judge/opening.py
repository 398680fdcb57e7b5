"""Judges by name: Keel's own, those of a user's code, and those of installed packages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from keel.endpoint import Spending
from keel.engines import Engine, open_engine
from keel.errors import UsageError
from keel.judge.clusters import CLUSTERS, ClusterGrader, Embed
from keel.judge.endpoint import EndpointGrader
from keel.judge.engine_judges import ChannelGrader, LabelGrader
from keel.judge.heuristic import HeuristicGrader
from keel.registry import Registry
from keel.settings import EndpointLimits
from keel.types import Grader


@dataclass(frozen=True)
class JudgeOptions:
    """The arguments that a judge is opened with."""

    spec: str
    """The judge as it was asked for, such as `local:MODEL`."""
    argument: str = ""
    """What follows the colon of the spec."""
    url: str | None = None
    """Address of a judge that has one."""
    limits: EndpointLimits | None = None
    """Limits of a judge that has an address."""
    spending: Spending | None = None
    """What others of the same run have spent under these limits; else a budget of its own."""
    engine: Engine | None = None
    """The run's own model, where it is loaded."""
    open_engine: Callable[[str], Engine] = open_engine
    load_embedder: Callable[[], Embed] | None = None
    """Loads what embeds texts; None where answers are not those of an evaluation."""

    def model(self) -> Engine:
        """The model that the argument names, else the run's own. Raises UsageError without it."""
        if self.argument:
            return self.open_engine(self.argument)
        if self.engine is None:
            raise UsageError(
                f"the judge {self.spec!r} is the run's own model, which is not loaded here; name "
                "one, e.g. local:MODEL"
            )
        return self.engine


OpenJudge = Callable[[JudgeOptions], Grader]
Open = TypeVar("Open", bound=OpenJudge)


@dataclass(frozen=True)
class _Kind:
    """A registered judge."""

    pattern: str
    open: OpenJudge
    has_address: bool

    def takes(self, argument: str, *, has_colon: bool) -> bool:
        """Whether the part of a spec after its colon is as the pattern has it."""
        if argument:
            return ":" in self.pattern
        return not has_colon and (":" not in self.pattern or "[" in self.pattern)


_JUDGES: Registry[_Kind] = Registry("judge", "keel.judges")


def judge(pattern: str, *, has_address: bool = False) -> Callable[[Open], Open]:
    """Registers the function or class that opens a judge, from JudgeOptions, under a name.

    The pattern is the name; `name:MODEL` where an argument must follow, `name[:N]` where one may.
    A judge with an address takes `url` and `limits`. In an installed package, an entry point of
    the group `keel.judges` names the module that registers.
    """

    def register(open_judge: Open) -> Open:
        name = re.split(r"\[?:", pattern)[0]
        _JUDGES.add(name, _Kind(pattern, open_judge, has_address), open_judge)
        return open_judge

    return register


def open_grader(
    spec: str,
    *,
    url: str | None = None,
    engine: Engine | None = None,
    open_engine: Callable[[str], Engine] = open_engine,
    limits: EndpointLimits | None = None,
    spending: Spending | None = None,
    load_embedder: Callable[[], Embed] | None = None,
) -> Grader:
    """The judge that a spec names, its arguments those of JudgeOptions.

    Raises UsageError, listing all judges, for any other, and for an address where none is asked.
    """
    name, colon, argument = spec.partition(":")
    kind = _JUDGES.get(name) if name in _JUDGES.names() else None
    if kind is None or not kind.takes(argument, has_colon=bool(colon)):
        near = difflib.get_close_matches(name.lower(), _JUDGES.names(), n=1) if kind is None else []
        hint = f" (did you mean {near[0]}{colon}{argument}?)" if near else ""
        raise UsageError(f"judge is {spec!r}{hint}, expected {', '.join(known_judges())}")
    if not kind.has_address and (url is not None or limits is not None):
        raise UsageError(f"the judge {spec!r} has no address and no limits; openai:MODEL has")
    return kind.open(
        JudgeOptions(spec, argument, url, limits, spending, engine, open_engine, load_embedder)
    )


def known_judges() -> tuple[str, ...]:
    """The patterns of all judges; those of packages that are not imported yet by their names."""
    patterns = {name: kind.pattern for name, kind in _JUDGES.registered.items()}
    return tuple(patterns.get(name, name) for name in _JUDGES.names())


@judge("heuristic")
def _heuristic(options: JudgeOptions) -> Grader:
    """Phrases in the words; needs no model."""
    return HeuristicGrader()


@judge("self")
@judge("local:MODEL")
def _labels(options: JudgeOptions) -> Grader:
    """The run's own model, or another one, by the probabilities of the labels."""
    return LabelGrader(options.model())


@judge("channel[:MODEL]")
def _channel(options: JudgeOptions) -> Grader:
    """A model, by which label explains the answer best; better than `self` for small models."""
    return ChannelGrader(options.model())


@judge("clusters[:N]")
def _clusters(options: JudgeOptions) -> Grader:
    """Not a judge: answers sorted into N kinds by their embeddings."""
    number = options.argument or str(CLUSTERS)
    if not re.fullmatch(r"\d{1,4}", number) or int(number) < 2:
        raise UsageError(
            f"judge {options.spec!r}: {number!r} is no number of clusters; say clusters:8"
        )
    if options.load_embedder is None:
        raise UsageError(
            f"the judge {options.spec!r} sorts the answers of an evaluation, keel evaluate; take "
            "another"
        )
    return ClusterGrader(options.load_embedder(), clusters=int(number))


@judge("openai:MODEL", has_address=True)
def _endpoint(options: JudgeOptions) -> Grader:
    """A model behind the OpenAI-compatible address, within the limits."""
    limits = options.limits or EndpointLimits()
    return EndpointGrader(options.argument, options.url, limits=limits, spending=options.spending)
