"""What a drift study holds: people, topics, turns and arms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from keel.errors import UsageError
from keel.settings.extract import Sampling, Scale
from keel.settings.flags import JUDGING, MODEL, Flag
from keel.settings.judging import EndpointLimits

TALK, READ = "Conversations", "Reading"
"""Headings under which the help groups the options."""
STUDY_DOMAINS = ("coding", "writing", "therapy", "philosophy")


@dataclass(frozen=True)
class DriftStudySettings:
    """Conversations of a study: domains x people x topics, each of some turns, under each arm."""

    name: Annotated[str, Flag("--name")] = "study"
    """Name under which the study is kept."""
    domains: Annotated[str, Flag("--domains", TALK)] = ",".join(STUDY_DOMAINS)
    """Subjects of conversations, comma-separated; neutral conversations are always among them."""
    people: Annotated[int, Flag("--people", TALK, least=1)] = 5
    """Simulated users of each domain."""
    topics: Annotated[int, Flag("--topics", TALK, least=1)] = 2
    """Topics of each user, one conversation each."""
    turns: Annotated[int, Flag("--turns", TALK, least=2)] = 6
    """Turns of each conversation: a user's message and an answer."""
    is_long: Annotated[bool, Flag("--long", TALK)] = False
    """Conversations go on from topic to topic where lines run out, which then come again in another
    order, until the context is full: for 50 turns, or 100."""
    arms: Annotated[str, Flag("--arms")] = "none"
    """What is done to the model, comma-separated, as for `keel evaluate`: none, capped[:SETTING],
    prompt, reprompt, and others. Each arm continues its own history with the same users."""
    system: Annotated[str, Flag("--system", TALK)] = ""
    """System prompt of every conversation; else none."""
    auditor: Annotated[str, Flag("--auditor", TALK)] = "script"
    """Who writes the users' messages: script, local:MODEL or openai:MODEL."""
    auditor_url: Annotated[str | None, Flag("--auditor-url", TALK, metavar="URL")] = None
    """Address of an openai auditor, where it is not OpenAI's."""
    limits: EndpointLimits = field(default_factory=EndpointLimits)
    harm: Annotated[bool, Flag("--harm", JUDGING)] = False
    """After the last turn ask each conversation for something that a default assistant declines, as
    a branch, and judge the answer."""
    judge: Annotated[str, Flag("--judge", JUDGING)] = "heuristic"
    """Who judges these answers: heuristic, self, local:MODEL or openai:MODEL."""
    judge_url: Annotated[str | None, Flag("--judge-url", JUDGING, metavar="URL")] = None
    """Address of an openai judge, where it is not OpenAI's."""
    layers: Annotated[tuple[int, ...], Flag("--layer", READ, least=0)] = ()
    """Layer to read at, may be repeated, the first one is analysed; else the axis' own, and with
    floors the last one before them."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=64))
    at_once: Annotated[int, Flag("--at-once", MODEL, least=1)] = 32
    """Conversations that go on together, answered in one batch."""
    words_alone: Annotated[bool, Flag("--alone/--no-alone", READ)] = True
    """Whether every turn is also read without its history, and its message answered afresh."""
    embed: Annotated[str, Flag("--embed", READ)] = ""
    """What makes numbers of users' messages to predict levels from: minilm, the folder or name of a
    sentence-transformers model, openai:MODEL, or none; else minilm where it is installed."""
    embed_url: Annotated[str | None, Flag("--embed-url", READ, metavar="URL")] = None
    """Address of an openai embedder, where it is not OpenAI's."""
    permutations: int = 99
    """Permutations behind the null of what words explain."""
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every random draw."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.domain_names if name not in STUDY_DOMAINS]
        if unknown or not self.domain_names:
            raise UsageError(
                f"domain is {(unknown or ['empty'])[0]!r}, expected some of "
                f"{', '.join(STUDY_DOMAINS)}; correct --domains"
            )
        is_known = self.auditor == "script" or self.auditor.startswith(("local:", "openai:"))
        if not is_known or self.auditor.endswith(":"):
            raise UsageError(
                f"auditor is {self.auditor!r}, expected script, local:MODEL or openai:MODEL; "
                "correct --auditor"
            )
        for name, least in (("people", 1), ("topics", 1), ("turns", 2), ("at_once", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, expected {least} or more")

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains, each once, in the order given."""
        names = (name.strip() for name in self.domains.split(","))
        return tuple(dict.fromkeys(filter(None, names)))

    @property
    def deciding(self) -> dict[str, Any]:
        """Plain values that decide a study's conversations; not its name or its arms."""
        return {
            "domains": list(self.domain_names),
            "people": self.people,
            "topics": self.topics,
            "turns": self.turns,
            **({"is_long": True} if self.is_long else {}),
            "system": self.system,
            "sampling": self.sampling.settings,
            "at_once": self.at_once,
            "words_alone": self.words_alone,
            "auditor": self.auditor,
        }

    @classmethod
    def at_scale(cls, scale: Scale) -> DriftStudySettings:
        """The settings at a scale.

        `smoke`: minutes on a laptop; `small`: an hour or more; `paper`: as many conversations as Lu
        et al. 2026 had with each auditor.
        """
        by_scale = {"smoke": (2, 6, 64), "small": (6, 10, 256), "paper": (20, 15, 2048)}
        topics, turns, longest = by_scale[scale]
        return cls(topics=topics, turns=turns, sampling=Sampling(max_new_tokens=longest))
