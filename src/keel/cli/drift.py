"""keel drift: the path of conversations along the axis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.markup import escape

from keel.cli import console

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.store import RunFolder
    from keel.types import Conversation, DriftReading, Replay, Sampling

EXAMPLES = """
Examples:

    keel drift runs/smollm2 talk.json

    keel drift runs/smollm2 logs.jsonl --json

    keel drift runs/smollm2 talk.json --replay
"""


class _ReplaySettings(TypedDict):
    sampling: Sampling
    seed: int
    setting: str | None
    layer: int | None


def drift(
    run: console.Run,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Transcripts, or OpenAI messages: JSON or JSONL."),
    ],
    replay: Annotated[
        bool, typer.Option("--replay", help="Answer the user's turns anew, uncapped and capped.")
    ] = False,
    setting: Annotated[str | None, typer.Option(help="Which of the run's floors to use.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to read at.", min=0)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer of a replay.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="Of a replay; 0 is greedy.", min=0)] = 0.7,
    seed: console.Seed = 0,
    engine_name: console.EngineName = "transformers",
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    json: console.Json = False,
) -> None:
    """See how far conversations drift from the Assistant, turn by turn."""
    from keel import pipeline
    from keel.drift import read_conversations
    from keel.store import RunFolder, open_run
    from keel.types import Sampling

    conversations = [talk for file in files for talk in read_conversations(file)]
    identity = open_run(run).identity
    folder = RunFolder(run)
    engine = console.open_model(
        identity.model_id, device, dtype, blocks, trust_remote_code, engine_name
    )
    if replay:
        settings: _ReplaySettings = {
            "sampling": Sampling(max_new_tokens, temperature),
            "seed": seed,
            "setting": setting,
            "layer": layer,
        }
        _show_replays(_replay(engine, folder, conversations, settings), folder, json)
        return
    with console.progress() as progress:
        found = pipeline.drift(
            engine, folder, conversations, layer=layer, setting=setting, on_progress=progress
        )
    _show_readings(found, folder, json)


def _replay(
    engine: Engine, folder: RunFolder, conversations: list[Conversation], settings: _ReplaySettings
) -> list[Replay]:
    from keel import pipeline

    found = []
    with console.progress() as progress:
        for conversation in conversations:

            def show(stage: str, done: int, total: int, name: str = conversation.id) -> None:
                progress(f"{name}: {stage}"[:34], done, total)

            found.append(
                pipeline.replay_conversation(
                    engine, folder, conversation, **settings, on_progress=show
                )
            )
    return found


def _show_readings(found: list[DriftReading], folder: RunFolder, json: bool) -> None:
    from keel.drift import draw_drift

    if json:
        console.print_json(found)
        return
    axis = folder.read().axis
    for reading in found:
        console.stdout.print(draw_drift(reading, axis, width=console.stdout.width))
    console.stdout.print(f"\nIn HTML: [b]keel report {escape(str(folder.path))}[/b]")


def _show_replays(found: list[Replay], folder: RunFolder, json: bool) -> None:
    from keel.drift import draw_replay

    if json:
        console.print_json(found)
        return
    axis = folder.read().axis
    for replay in found:
        console.stdout.print(draw_replay(replay, axis, width=console.stdout.width))
    console.stdout.print(f"\nSide by side in HTML: [b]keel report {escape(str(folder.path))}[/b]")
