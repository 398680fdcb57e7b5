"""What a run is to ask, and how: from a command's options to settings and inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keel.pipeline import ExtractInputs, Extraction, ExtractSettings


def inputs_of(roles: Path | None, traits: Path | None, questions: Path | None) -> ExtractInputs:
    from dataclasses import replace

    from keel.pipeline import ExtractInputs
    from keel.prompts import load_library, read_questions, read_roles, read_traits

    library = load_library()
    source = []
    if roles is not None:
        read = read_roles(roles)
        default = read.default_prompts or library.default_prompts
        library = replace(library, roles=read.roles, default_prompts=default)
        whose = "its own" if read.default_prompts else "keel's"
        source.append(f"roles of {roles.name} with {whose} default")
    if traits is not None:
        library = replace(library, traits=read_traits(traits))
        source.append(f"traits of {traits.name}")
    if questions is not None:
        library = replace(library, questions=read_questions(questions))
        source.append(f"questions of {questions.name}")
    return ExtractInputs(library, ", ".join(source) or "keel")


def pairs_to_judge(min_pairs: int | None) -> int | None:
    """Pairs to judge where more are needed than are judged by default."""
    from keel.personas import TraitSettings

    if min_pairs is None or min_pairs <= TraitSettings().judged_pairs:
        return None
    return min_pairs


def check_unasked(given: dict[str, Any], what: str, dry_run: bool) -> None:
    """Refuse options on how to ask where nothing is asked. Raises UsageError."""
    from keel.errors import UsageError

    named = [name for name, value in given.items() if value is not None]
    named += ["what"] * (what != "roles") + ["dry-run"] * dry_run
    if named:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        raise UsageError(
            "--rollouts-from reads the answers that are there, all of them; leave out what says "
            f"how to ask: {options}"
        )


def maker_of(source: Path | None, inputs: ExtractInputs) -> Callable[..., Extraction]:
    """What makes the run: new answers, or those of another run read again."""
    from functools import partial

    from keel import pipeline
    from keel.store import open_run

    if source is None:
        return partial(pipeline.extract, inputs=inputs)
    return partial(pipeline.reread, source=open_run(source))


def settings_of(
    base: ExtractSettings, *, keep: Any, what: Any, **parts: dict[str, Any]
) -> ExtractSettings:
    """The scale's settings with those that were given in their place."""
    from dataclasses import replace

    changed = {
        part: replace(getattr(base, part), **{k: v for k, v in given.items() if v is not None})
        for part, given in parts.items()
    }
    return replace(base, keep=keep, what=what, **changed)
