"""Who judges, and what a judge behind an address may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from keel.errors import UsageError
from keel.settings.extract import MapSettings
from keel.settings.flags import ENDPOINT, JUDGING, Flag


@dataclass(frozen=True)
class EndpointLimits:
    """What requests to a model behind an address must keep to; the defaults suit most services."""

    workers: int = 8
    """Requests in flight at the same time, at the most."""
    requests_per_minute: Annotated[float | None, Flag("--requests-per-minute", ENDPOINT)] = None
    """Pace of requests to an openai model, retries included; else as the endpoint's own limits
    allow."""
    timeout_s: float = 120.0
    """How long one request may take altogether."""
    attempts: int = 7
    """How often one request is sent before its case counts as failed."""
    first_wait_s: float = 1.0
    """Before the second attempt; doubled before each one after it, and varied at random."""
    longest_wait_s: float = 60.0
    """Where doubling ends."""
    longest_retry_after_s: float = 600.0
    """An endpoint that asks for a longer rest than this ends the work, with a message."""
    max_requests: Annotated[int | None, Flag("--max-requests", ENDPOINT, least=1)] = None
    """Requests to an openai model, retries included, after which work stops; else no limit."""
    max_cost_usd: Annotated[float | None, Flag("--max-usd", ENDPOINT)] = None
    """Cost of an openai model, in US dollars, at which work stops; needs both prices."""
    usd_per_million_in: Annotated[float | None, Flag("--usd-in", ENDPOINT)] = None
    """Price of a million tokens sent to an openai model, in US dollars."""
    usd_per_million_out: Annotated[float | None, Flag("--usd-out", ENDPOINT)] = None
    """Price of a million tokens received from an openai model, in US dollars."""
    max_reply_tokens: int = 1024
    """For one reply, thinking included: a model that reasons needs far more than a label."""

    def __post_init__(self) -> None:
        for name in ("workers", "attempts", "max_reply_tokens"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("timeout_s", "requests_per_minute"):
            number = getattr(self, name)
            self._check(name, number is None or 0 < number < math.inf, "a number above 0")
        for name in ("first_wait_s", "longest_wait_s", "longest_retry_after_s"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("max_requests", "max_cost_usd", "usd_per_million_in", "usd_per_million_out"):
            number = getattr(self, name)
            self._check(name, number is None or 0 <= number < math.inf, "0 or more")
        if self.max_cost_usd is not None and not self.has_prices:
            raise UsageError(
                f"max_cost_usd is {self.max_cost_usd:g}, but what tokens cost is not known; "
                "give usd_per_million_in and usd_per_million_out"
            )

    @property
    def has_prices(self) -> bool:
        """Whether it is known what tokens cost."""
        return self.usd_per_million_in is not None and self.usd_per_million_out is not None

    def _check(self, name: str, is_good: bool, expected: str) -> None:
        if not is_good:
            raise UsageError(f"{name} is {getattr(self, name)}, expected {expected}")


@dataclass(frozen=True)
class GraderSettings:
    """By which rubric a judge labels, and where it is reached."""

    url: Annotated[str | None, Flag("--judge-url", JUDGING, metavar="URL")] = None
    """Address of an openai judge, where it is not OpenAI's."""
    rubrics: Annotated[Path | None, Flag("--rubrics", JUDGING, metavar="FILE")] = None
    """Rubrics in place of Keel's, as JSON."""
    limits: EndpointLimits = field(default_factory=EndpointLimits)

    @property
    def given_limits(self) -> EndpointLimits | None:
        """The limits; None where they are the usual ones, which only some judges can keep."""
        return None if self.limits == EndpointLimits() else self.limits


@dataclass(frozen=True)
class JudgeSettings:
    """Which answers of a run are judged, by whom, and whether they are mapped again."""

    judge: Annotated[str, Flag("--judge")] = "likelihood"
    """`likelihood`, `heuristic`, `self`, `channel`, `local:MODEL`, `channel:MODEL` or
    `openai:MODEL`."""
    threshold: Annotated[float, Flag("--threshold")] = 0.05
    """For likelihood: nats per token that an answer must gain from its role prompt."""
    limit: Annotated[int | None, Flag("--limit", least=1)] = None
    """Answers to judge, the same ones each time; else all."""
    remap: Annotated[bool, Flag("--remap")] = False
    """Make the maps again, of the answers that play their role."""
    mapping: MapSettings = field(default_factory=lambda: MapSettings(min_count=3, label="playing"))
    roles: Annotated[Path | None, Flag("--roles", metavar="DIR")] = None
    """Folder of role files by whose descriptions roles are judged, in place of Keel's."""
    traits: Annotated[Path | None, Flag("--traits", metavar="DIR")] = None
    """Folder of trait files by whose descriptions traits are judged, in place of Keel's."""
    grader: GraderSettings = field(default_factory=GraderSettings)


@dataclass(frozen=True)
class LabelSettings:
    """Which answers a person labels."""

    limit: Annotated[int | None, Flag("--limit", least=1)] = None
    """Answers to label; else all."""
    rubrics: Annotated[Path | None, Flag("--rubrics", metavar="FILE")] = None
    """Rubrics in place of Keel's, as JSON."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides the order."""
