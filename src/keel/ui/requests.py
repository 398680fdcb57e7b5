"""What the page sends, checked on arrival, and what it is told of the run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from keel.drift import read_transcripts
from keel.errors import MissingArtifactError, UsageError
from keel.prompts import load_scenarios
from keel.settings import UiSettings
from keel.store import Run
from keel.types import SOMEWHAT, Conversation, Floors, Message
from keel.ui.answering import Side, SideBySide, TwoSidedQuestion

_MOST_CONVERSATIONS = 50
"""Of a file; a page that lists more is of no use."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PastTurn(_Checked):
    """A message with its answer on each side; a side that has none does not remember it."""

    user: str
    uncapped: str | None = None
    capped: str | None = None


class AnswerRequest(_Checked):
    """A message to answer, with what was said before it."""

    message: str = Field(min_length=1)
    turns: tuple[PastTurn, ...] = ()
    system: str = ""
    sides: tuple[Side, ...] = Field(min_length=1)
    setting: str | None = None
    strength: float = Field(default=0.0, ge=-2, le=2)
    max_new_tokens: int = Field(ge=1, le=4096)
    temperature: float = Field(ge=0, le=2)
    seed: int = Field(default=0, ge=0)

    def question(self, settings: UiSettings) -> TwoSidedQuestion:
        """The conversation on each side that is to answer."""
        sampling = replace(
            settings.sampling, max_new_tokens=self.max_new_tokens, temperature=self.temperature
        )
        conversations = {side: self._conversation(side) for side in self.sides}
        return TwoSidedQuestion(conversations, sampling, self.setting, self.strength, self.seed)

    def _conversation(self, side: Side) -> Conversation:
        messages = [Message("system", self.system)] if self.system.strip() else []
        for turn in self.turns:
            answer = getattr(turn, side)
            if answer is not None:
                messages += [Message("user", turn.user), Message("assistant", answer)]
        return Conversation((*messages, Message("user", self.message)), side)


class ReadRequest(_Checked):
    """A conversation whose answers are to be measured as they stand."""

    system: str = ""
    messages: tuple[tuple[Literal["user", "assistant"], str], ...] = Field(min_length=1)
    setting: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The messages behind the system prompt, if there is one."""
        system = [Message("system", self.system)] if self.system.strip() else []
        said = (Message(speaker, text) for speaker, text in self.messages)
        return Conversation((*system, *said), "read")


def parsed(kind: type[_Checked], body: bytes) -> Any:
    """The request that the body holds. Raises UsageError that names the first wrong field."""
    try:
        return TypeAdapter(kind).validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise UsageError(f"{where}: {first['msg']}; reload the page") from None


def conversations_in(name: str, body: bytes) -> dict[str, Any]:
    """The conversations of an uploaded file, and lines on what was left out of it.

    Raises UsageError where none can be read.
    """
    with tempfile.TemporaryDirectory(prefix="keel-ui-") as folder:
        path = Path(folder) / (Path(name).name or "conversation.json")
        path.write_bytes(body)
        read = read_transcripts([path], skip_unreadable=True)
    notes = [line.replace(f"{folder}/", "") for line in read.summary()]
    count = len(read.conversations)
    if not count:
        raise UsageError(f"{path.name} holds no conversation, expected at least one")
    if count > _MOST_CONVERSATIONS:
        notes.append(f"the first {_MOST_CONVERSATIONS} of {count:,} conversations are listed")
    return {
        "notes": notes,
        "conversations": [
            {
                "id": conversation.id,
                "system": conversation.system or "",
                "messages": [
                    (m.speaker, m.content) for m in conversation.without_system().messages
                ],
            }
            for conversation in read.conversations[:_MOST_CONVERSATIONS]
            if any(m.speaker != "system" for m in conversation.messages)
        ],
    }


def described(model: SideBySide, settings: UiSettings) -> dict[str, Any]:
    """All that the page shows of the run: its model, settings, roles and presets."""
    run = model.run
    chosen = run.floors.name if run.has_floors else None
    # Refused here, and not by the first message, if there is no such setting.
    layer = model.gauge(settings.setting).layer
    return {
        "run": str(run.path),
        "model": run.axis.identity.model_id,
        "layer": layer,
        "settings": [_setting(model, floors) for floors in model.settings],
        "setting": settings.setting or chosen,
        "chosen": chosen,
        "no_floors": None
        if chosen
        else f"This run has no floors, so nothing can be capped; {run.floors_remedy}",
        "knows_norm": bool(run.axis.residual_norm[run.axis.layer].isfinite()),
        "system": settings.system or "",
        "max_new_tokens": settings.sampling.max_new_tokens,
        "temperature": settings.sampling.temperature,
        "seed": settings.seed,
        "roles": list(_roles(run)),
        "presets": [
            {"title": s.title, "system": s.system or "", "turns": s.turns} for s in load_scenarios()
        ],
    }


def _setting(model: SideBySide, floors: Floors) -> dict[str, Any]:
    band, _, percentile = floors.name.rpartition("-p")
    is_named = band and percentile.replace(".", "").isdigit()
    return {
        "name": floors.name,
        "band": band.removeprefix("layers_") if is_named else floors.name,
        "percentile": float(percentile) if is_named else None,
        "floor_gaps": model.gauge(floors.name).floor_gaps,
    }


def _roles(run: Run) -> Iterator[dict[str, Any]]:
    """The map's roles at the axis' layer, the default among them; prompts are the run's own."""
    try:
        space = run.persona_map.space
    except MissingArtifactError:  # an axis from elsewhere has no map
        return
    layer = run.axis.layer
    rows = zip(space.roles, space.coordinates_LRK[layer, :, :2].tolist(), strict=True)
    prompts = _system_prompts(run, {name.removesuffix(SOMEWHAT) for name in space.roles})
    for name, coordinates in rows:
        prompt = prompts.get(name.removesuffix(SOMEWHAT))
        if prompt is not None:
            yield {"name": name.replace("_", " "), "at": coordinates, "system": prompt}
    at = space.default_coordinates_LK[layer, :2].tolist()
    yield {"name": "default", "at": at, "system": ""}


def _system_prompts(run: Run, wanted: set[str]) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for rollout in run.rollouts():
        role, system = rollout.prompt.role, rollout.prompt.conversation.system
        if system and role in wanted:
            prompts.setdefault(role, system)
            if len(prompts) == len(wanted):
                break
    return prompts
