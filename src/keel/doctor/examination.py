"""Runs the checks on a model, one after another, and says how each ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from keel.doctor import answer_checks, stream_checks, template_checks
from keel.doctor.findings import CheckFailedError, CheckSkippedError
from keel.doctor.subject import Subject
from keel.errors import KeelError
from keel.words import first_line

CheckStatus = Literal["passed", "failed", "crashed", "refused", "skipped"]


@dataclass(frozen=True)
class Check:
    """How one check of a model ended."""

    name: str
    """What was checked, as a claim: `cached equals uncached`."""
    status: CheckStatus
    """`passed`; `failed`: something is other than it should be; `crashed`: an error that Keel did
    not foresee; `refused`: Keel says that it cannot do this; `skipped`: nothing to look at."""
    text: str
    """What was seen, in a sentence; of a refusal its reason and remedy."""


@dataclass(frozen=True)
class Examination:
    """All checks of one model, in order."""

    model: str
    """Its class."""
    checks: tuple[Check, ...]

    @property
    def is_sound(self) -> bool:
        """Whether Keel works on this model: every check passed, or had nothing to look at."""
        return all(check.status in ("passed", "skipped") for check in self.checks)


def examine(
    model: Any,
    tokenizer: Any,
    *,
    blocks: str | Sequence[nn.Module] | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> Examination:
    """Whether Keel works on a transformers model, as a list of checks with what each saw.

    The model is run as Keel runs it (steered, cached, in padded batches, with rows that end early,
    read again) and held against plain passes without cache, padding or code of Keel's. It takes
    seconds on a small model, some 150 short passes, and leaves the model as it was. Weights may be
    random: nothing depends on what is answered. The tokenizer is a fast one.

    `blocks` is as for `keel.steered`; `on_check` is called with each check as it ends. No error is
    raised: it becomes a check that is `refused` (an error of Keel's own) or `crashed`.

        examination = examine(model, tokenizer, on_check=lambda check: print(check.name))
        for check in examination.checks:
            print(f"{check.status:8} {check.name}: {check.text}")
    """
    subject = Subject(model, tokenizer, blocks)
    checks: list[Check] = []
    for name, action in _CHECKS.items():
        check = _run(name, subject, action)
        checks.append(check)
        if on_check is not None:
            on_check(check)
        if name in _NEEDED and check.status != "passed":
            break
    return Examination(type(model).__name__, tuple(checks))


_CHECKS: dict[str, Callable[[Subject], str]] = {
    "runs by itself": stream_checks.check_plain_pass,
    "opens": stream_checks.check_opening,
    "blocks": stream_checks.check_blocks,
    "stream is the model's own": stream_checks.check_stream,
    "cap holds": stream_checks.check_cap,
    "model is restored": stream_checks.check_restored,
    "cached equals uncached": answer_checks.check_cache,
    "padded equals alone": answer_checks.check_padding,
    "rows may end early": answer_checks.check_early_ends,
    "generated equals read": answer_checks.check_reading_again,
    "read equals plain": stream_checks.check_reading,
    "token masks": answer_checks.check_masks,
    "template": template_checks.check_template,
    "answers' borders": template_checks.check_borders,
    "context": template_checks.check_context,
}
CHECK_NAMES = tuple(_CHECKS)
"""Every check by its name, in order."""
_NEEDED = ("runs by itself", "opens")
"""Where these do not pass, there is nothing to run the others on."""


def _run(name: str, subject: Subject, action: Callable[[Subject], str]) -> Check:
    """The check with the way it ended."""
    try:
        return Check(name, "passed", action(subject))
    except CheckFailedError as failure:
        return Check(name, "failed", str(failure))
    except CheckSkippedError as reason:
        return Check(name, "skipped", str(reason))
    except KeelError as refusal:
        return Check(name, "refused", str(refusal))
    except Exception as error:
        return Check(name, "crashed", f"{type(error).__name__}: {first_line(error)}")
