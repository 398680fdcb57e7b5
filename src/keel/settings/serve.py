"""How a run's model is served by vLLM or on a page, and how a server is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from keel.settings.extract import Sampling
from keel.settings.flags import MODEL, Flag

_WATCHING = "Watching for drift"


@dataclass(frozen=True)
class ServeSettings:
    """How `keel serve` holds a server."""

    setting: Annotated[str | None, Flag("--setting")] = None
    """Setting of requests that name none; the run's chosen one, unless given. `none`: only
    requests that name a setting are held."""
    allowed: Annotated[tuple[str, ...], Flag("--allow", metavar="SETTING")] = ()
    """A setting that requests may name beside the default; repeat it. Else any, and `none`."""
    key_grants: Annotated[tuple[str, ...], Flag("--allow-key", metavar="VARIABLE:SETTING,...")] = ()
    """Further settings for requests that send the API key which the environment variable VARIABLE
    holds; repeat it."""
    is_enforced: Annotated[bool, Flag("--enforce")] = False
    """Hold every token by the one setting, whatever requests say: the fastest and safest way."""
    admin_key_variable: Annotated[str | None, Flag("--admin-key-env", metavar="NAME")] = None
    """Environment variable with the key that `POST /keel/floors` wants, which changes floors while
    the server runs; without, nobody can."""
    canary_minutes: Annotated[float, Flag("--canary-minutes", least=0)] = 10.0
    """How often to test the server again while it runs; 0: never."""
    alarm: Annotated[str | None, Flag("--alarm", _WATCHING, metavar="RUN")] = None
    """Run, or its `alarm.json`, by whose alarm the conversations are watched for drift: every
    answer says whether its conversation drifts."""
    is_alarm_required: Annotated[bool, Flag("--require-alarm", _WATCHING)] = False
    """Do not start where that alarm does not fit; else the server says that it is not watching."""
    alarm_rate: Annotated[float | None, Flag("--alarm-rate", _WATCHING, least=0)] = None
    """Chance (0 to 0.5) that a default conversation ever raises the alarm; the alarm's own, unless
    given."""
    alarm_log: Annotated[str | None, Flag("--alarm-log", _WATCHING, metavar="FILE")] = None
    """File to which a line of JSON is added for every turn: numbers, no text."""
    alarm_webhook: Annotated[str | None, Flag("--alarm-webhook", _WATCHING, metavar="URL")] = None
    """URL to which every new alarm is posted."""
    alarm_action: Annotated[
        str | None, Flag("--alarm-action", _WATCHING, metavar="setting:NAME|refuse")
    ] = None
    """What is done with the next turn of a conversation that has alarmed and whose request names no
    setting: hold it by another setting, or refuse it. Nothing, unless given."""
    model: Annotated[str | None, Flag("--model", MODEL)] = None
    """Folder or hub id to serve, in place of the run's own model."""
    accepts_other_weights: Annotated[bool, Flag("--accept-other-weights", MODEL)] = False
    """Serve other weights than those that the floors were made on, such as a fine-tune's."""


@dataclass(frozen=True)
class CheckSettings:
    """How `keel check` reaches a server."""

    key_variable: Annotated[str | None, Flag("--key-env", metavar="NAME")] = None
    """Environment variable with the server's API key."""
    timeout_s: Annotated[float, Flag("--timeout", least=0)] = 30.0
    """Seconds to wait for each answer."""
    authority: Annotated[str | None, Flag("--ca", metavar="FILE")] = None
    """Certificates in PEM that the server's must be signed by, or be, in place of the system's."""
    accepts_any_certificate: Annotated[bool, Flag("--insecure")] = False
    """Do not look at the server's certificate."""


@dataclass(frozen=True)
class UiSettings:
    """What the page begins with; all but the port can be changed on it."""

    setting: Annotated[str | None, Flag("--setting")] = None
    """Which of the run's settings caps; else its default."""
    system: Annotated[str | None, Flag("--system")] = None
    """System prompt; else none."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=200))
    seed: Annotated[int, Flag("--seed", least=0)] = 0
    """Decides every draw of an answer."""
    port: Annotated[int | None, Flag("--port", least=0, most=65535)] = None
    """Port of this machine; else 8765, or any free one where that is taken."""
    opens_browser: Annotated[bool, Flag("--open")] = False
    """Open the page in the browser of this machine."""
