"""Items answered by a model behind an OpenAI-compatible address.

Its activations are out of reach: no projection, no perplexity. Of arms it can do those made of
words, and the settings that a server of Keel's has under their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from keel.endpoint import (
    ChatRequest,
    Connection,
    Endpoint,
    EndpointClient,
    EndpointFaultError,
)
from keel.engines import text_before
from keel.errors import NotAppliedError
from keel.evaluate.answering import Answer, AnsweredBatch, Answerer, Batches
from keel.evaluate.arm_making import spoken_arms
from keel.evaluate.arms import Arm, ArmSpec
from keel.seeds import text_hash
from keel.settings import EndpointLimits
from keel.types import UNSTEERED, Conversation, Message, ModelIdentity, Sampling

_SERVED_AS_IT_IS = ""
_UNKNOWN = "keel-evaluate-asks-whether-settings-are-known"
_BATCH = 16
_MOST_STOPS = 4
"""OpenAI takes no more stop strings; an answer is cut at all of them afterwards."""


@dataclass(frozen=True)
class ServedArms:
    """Arms of a served model, and which of the server's settings each asks for."""

    arms: tuple[Arm, ...]
    settings: Mapping[str, str]
    """Arm -> name of the setting; empty where a request says nothing of it."""
    warnings: tuple[str, ...] = ()


def served_arms(specs: Sequence[ArmSpec]) -> ServedArms:
    """Arms for a model behind an address: `none`, words, and `capped[:SETTING]` by its own name.

    Where a setting is asked for, the unsteered arm asks for none; else it says nothing of
    settings, as any server understands. Raises UsageError for an arm that reaches further in.
    """
    capped = {spec.name: spec for spec in specs if spec.kind == "capped"}
    by_name = {arm.name: arm for arm in spoken_arms([s for s in specs if s.kind != "capped"])}
    for name, spec in capped.items():
        note = f"the server's setting {spec.setting}" if spec.setting else "as the server holds it"
        by_name[name] = Arm(name, note=note)
    arms = tuple(by_name[spec.name] for spec in specs)
    plain = UNSTEERED if capped else _SERVED_AS_IT_IS
    settings = {arm.name: capped[arm.name].setting if arm.name in capped else plain for arm in arms}
    unproven = (
        "that nothing steers the model is the word of whoever serves it: no setting was asked for"
    )
    return ServedArms(arms, settings, () if capped else (unproven,))


@dataclass(frozen=True)
class ServedAnswerer(Answerer):
    """Answers items by a model behind an address; several requests at a time, retried."""

    model: str
    base_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Arm -> setting of the server's, from `served_arms`."""
    timeout_s: float = 300.0
    retries: int = 6
    """Of a request that was refused for now (429, 5xx) or not answered in time."""
    _client: EndpointClient = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = EndpointLimits(
            attempts=self.retries + 1, timeout_s=self.timeout_s, first_wait_s=0.5, longest_wait_s=8
        )
        client = EndpointClient(Endpoint(self.model, self.base_url), limits)
        object.__setattr__(self, "_client", client)

    @property
    def identity(self) -> ModelIdentity:
        """What the server calls it, and where; its shape is not known."""
        return ModelIdentity(f"{self.model}@{urlsplit(self.base_url).netloc}", 0, 0)

    @property
    def can_be_timed(self) -> bool:
        """False: requests may cost money, and their time is the server's load."""
        return False

    def fingerprint(self, arm: Arm) -> str:
        """The setting asked for, and the arm's own words."""
        served = f"served {self.settings.get(arm.name, '')} {arm.fingerprint}"
        return text_hash(served)

    def plan(self, conversations: Sequence[Conversation], sampling: Sampling) -> Batches:
        """Sixteen at a time, in their order: what a kill can cost."""
        rows = range(len(conversations))
        return tuple(tuple(rows[at : at + _BATCH]) for at in range(0, len(rows), _BATCH))

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> AnsweredBatch:
        """Ask all of a batch.

        Raises EndpointError where one is refused, NotAppliedError where the server knows no
        settings and one is asked for.
        """
        setting = self.settings.get(arm.name, _SERVED_AS_IT_IS)
        answers: dict[int, Answer] = {}
        with self._client.connect() as connection:
            if setting:
                self._check_settings_are_known(connection, sampling)

            def ask(row: int) -> tuple[int, Answer]:
                words = arm.change(conversations[row])
                request = self._request(words, sampling, (seed + row) % 2**31, setting)
                reply = connection.ask(request)
                tokens = reply.counted.received if reply.counted else len(reply.text.split())
                text = text_before(reply.text, sampling.stop)
                return row, Answer(text, tokens, "length" if reply.is_cut else "stop")

            for row, answer in connection.ask_all(range(len(conversations)), ask):
                answers[row] = answer
                on_answer()
        return AnsweredBatch(tuple(answers[row] for row in range(len(conversations))))

    def _request(
        self, conversation: Conversation, sampling: Sampling, seed: int, setting: str
    ) -> ChatRequest:
        fields = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
        beyond_openai: dict[str, Any] = {}  # vLLM's; nothing where nothing is needed
        if setting:
            beyond_openai["vllm_xargs"] = {"keel": setting}
        if conversation.messages[-1].speaker == "assistant":
            beyond_openai |= {"add_generation_prompt": False, "continue_final_message": True}
        stop = list(sampling.stop[:_MOST_STOPS])
        return ChatRequest(
            conversation.messages,
            max_tokens=sampling.max_new_tokens,
            sampling=fields | ({"stop": stop} if stop else {}),
            extra_body=beyond_openai,
        )

    def _check_settings_are_known(self, connection: Connection, sampling: Sampling) -> None:
        """A server of Keel's refuses a setting that it does not have; another takes no notice."""
        hello = Conversation((Message("user", "Hello"),))
        try:
            connection.ask(self._request(hello, sampling, 0, _UNKNOWN))
        except EndpointFaultError as error:
            if error.status == 400:
                return
            raise
        raise NotAppliedError(
            f"{self.base_url} was asked for a setting that does not exist and answered all the "
            "same: it takes no notice of settings, so its arms would all be one; serve the run "
            "with Keel (docs/vllm.md), or take none, prompt, reprompt"
        )
