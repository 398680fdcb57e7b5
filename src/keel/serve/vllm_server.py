"""Starts vLLM's own server with a run's floors in place, and opens it once a probe has passed.

What can be refused before a weight is loaded is refused here, in one line. While the server runs it
is probed again; one that fails is closed and ended.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from keel.engines import locate
from keel.engines.vllm import (
    CANDIDATE_HEADER,
    FRONT,
    PROBE_HEADER,
    Gate,
    ServeEnvironment,
    ServerAddress,
    action_of,
    check_version,
    check_weights,
    deployment_for,
    settings_of,
    vllm_version,
)
from keel.errors import (
    EndpointError,
    EngineDiedError,
    MissingExtraError,
    NotAppliedError,
    UsageError,
)
from keel.serve.probe import ProbeResult, probe_server
from keel.settings import ServeSettings
from keel.types import UNSTEERED

PLUGIN_GROUP, PLUGIN = "vllm.general_plugins", "keel"
_TURN_S = 0.2
_PATIENCE_S = 120.0
"""How long one answer of the first probe may take: the server compiles on first use."""
_END_S = 30.0
_SERVE = """
import sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

sys.argv[0] = "/bin/vllm"  # by which Keel knows a server
command = ServeSubcommand()
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args()
command.validate(arguments)
command.cmd(arguments)
"""
"""What `vllm serve` runs."""
_NOT_OURS = {
    "--grpc": "its requests pass Keel's front by",
    "--headless": "start that node with KEEL_FLOORS set and vllm serve itself",
    "--additional-config": "Keel writes its own entry there",
}
"""Arguments of vLLM's that `keel serve` cannot follow, and why."""


@dataclass(frozen=True)
class ServerPlan:
    """A server that passed every check that needs no weights."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    notes: tuple[str, ...]
    """What was set on the user's behalf."""


def plan_server(
    source: str | Path,
    settings: ServeSettings,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> ServerPlan:
    """The command of vLLM's server for a run's model, after all checks that need no weights.

    Raises MissingExtraError without a vLLM that was tested or where vLLM would not load Keel,
    UsageError for a setting or an argument that cannot be, ModelMismatchError for other weights.
    """
    given = dict(os.environ if environment is None else environment)
    notes = list[str]()
    variables = {**given, **_variables(source, settings), **_plugins(given, notes)}
    held = ServeEnvironment.of(variables)
    assert held is not None
    deployment_for(held)  # refuses settings that cannot be
    action_of(held)
    for argument, reason in _NOT_OURS.items():
        if _value_of(arguments, argument) is not None:
            raise UsageError(f"keel serve cannot take {argument}: {reason}")
    if _value_of(arguments, "--runner") == "pooling":
        raise UsageError("--runner pooling answers nothing that a floor could hold; leave it out")
    made = next(iter(settings_of(held).values())).identity
    name = settings.model or (made.model_id if made is not None else None)
    if name is None:
        raise UsageError(f"{source} does not say which model its floors are of; give --model")
    where = locate(name)
    if not held.accepts_other_weights:
        check_weights(settings_of(held), where, _value_of(arguments, "--revision"))
    check_version()
    own = list(_defaults(arguments, name, _choices(held), notes))
    return ServerPlan(
        (*_program(where), "--middleware", FRONT, *own, *arguments), variables, tuple(notes)
    )


def _variables(source: str | Path, settings: ServeSettings) -> dict[str, str]:
    """What the settings say, as the variables that every process of the server reads."""
    path = Path(source)
    variables = {"KEEL_FLOORS": str(path.resolve() if path.exists() else source)}
    if settings.setting is not None:
        variables["KEEL_SETTING"] = settings.setting
    if settings.allowed:
        variables["KEEL_ALLOW"] = ",".join(settings.allowed)
    if settings.key_grants:
        variables["KEEL_ALLOW_KEYS"] = ";".join(settings.key_grants)
    if settings.admin_key_variable is not None:
        variables["KEEL_ADMIN_KEY_ENV"] = settings.admin_key_variable
    if settings.is_enforced:
        variables["KEEL_ENFORCE"] = "1"
    if settings.accepts_other_weights:
        variables["KEEL_ACCEPT_OTHER_WEIGHTS"] = "1"
    needs_alarm = {
        "--require-alarm": settings.is_alarm_required,
        "--alarm-rate": settings.alarm_rate,
        "--alarm-log": settings.alarm_log,
        "--alarm-webhook": settings.alarm_webhook,
        "--alarm-action": settings.alarm_action,
    }
    given = [option for option, value in needs_alarm.items() if value]
    if given and settings.alarm is None:
        raise UsageError(f"{given[0]} needs an alarm; give --alarm RUN")
    if settings.alarm is not None:
        alarm = Path(settings.alarm)
        variables["KEEL_ALARM"] = str(alarm.resolve() if alarm.exists() else settings.alarm)
    if settings.is_alarm_required:
        variables["KEEL_ALARM_REQUIRED"] = "1"
    given_texts = {
        "KEEL_ALARM_LOG": settings.alarm_log,
        "KEEL_ALARM_WEBHOOK": settings.alarm_webhook,
        "KEEL_ALARM_ACTION": settings.alarm_action,
    }
    variables |= {name: text for name, text in given_texts.items() if text is not None}
    if settings.alarm_rate is not None:
        variables["KEEL_ALARM_RATE"] = f"{settings.alarm_rate:g}"
    variables["KEEL_CANARY_MINUTES"] = f"{settings.canary_minutes:g}"
    return variables


def _plugins(given: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Makes sure that vLLM will load Keel. Raises MissingExtraError where it cannot."""
    entries = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    if PLUGIN not in {entry.name for entry in entries}:
        raise MissingExtraError(
            "vLLM would not see Keel: its plugin is not registered here; install Keel into vLLM's "
            f"environment: {sys.executable} -m pip install keel-llm"
        )
    chosen = given.get("VLLM_PLUGINS")
    if chosen is None or PLUGIN in chosen.split(","):
        return {}
    notes.append(f"VLLM_PLUGINS is {chosen!r} and left Keel out; it is added")
    return {"VLLM_PLUGINS": ",".join([*filter(None, chosen.split(",")), PLUGIN])}


def _program(model: str) -> list[str]:
    """vLLM's own server, as `vllm serve` starts it."""
    if _is_on_cpu():  # the command itself looks for a package `vllm`, as no build for CPUs is named
        return [sys.executable, "-c", _SERVE, "--model", model]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


def _defaults(
    arguments: Sequence[str], name: str, settings: Sequence[str], notes: list[str]
) -> Iterator[str]:
    """Arguments that the user did not give and that a server needs here."""
    if _value_of(arguments, "--served-model-name") is None:
        yield from ("--served-model-name", name, *(f"{name}:{setting}" for setting in settings))
    if not _is_on_cpu():
        return
    if _value_of(arguments, "--gpu-memory-utilization") is None:
        yield from ("--gpu-memory-utilization", "0.4")
        notes.append("on a CPU vLLM takes 0.4 of the memory (--gpu-memory-utilization)")


def _choices(held: ServeEnvironment) -> list[str]:
    """Settings that a model's name can carry, for clients that can send nothing else."""
    if held.is_enforced:
        return ["capped"]
    may_go_without = held.allowed is None or UNSTEERED in held.allowed
    return ["capped", *settings_of(held), *([UNSTEERED] if may_go_without else [])]


def _is_on_cpu() -> bool:
    """Whether the vLLM installed here is the build for CPUs, a package of another name."""
    installed = {dist.name for dist in importlib.metadata.distributions()}
    return "vllm" not in installed or "cpu" in vllm_version()


def _value_of(arguments: Sequence[str], name: str) -> str | None:
    """What follows an argument of vLLM's, written with dashes or underscores; None if not given."""
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag.startswith("--") and flag.replace("_", "-") == name:
            after = arguments[index + 1] if index + 1 < len(arguments) else ""
            return value or after
    return None


class _Server(subprocess.Popen[bytes]):
    """vLLM's server, and whether it was this process that ended it.

    Its own status does not say: it is 0 too when the engine has died behind it.
    """

    was_ended = False

    def end(self, *_: object) -> None:
        """Have it answer what it began and end; a signal's handler."""
        self.was_ended = True
        self.terminate()


def run_server(
    plan: ServerPlan, *, canary_s: float, on_open: Callable[[ProbeResult], None]
) -> None:
    """Start the planned server, open it once a probe has passed, and stay until it ends.

    Calls `on_open` with what the probe showed, and again when other floors are live. Raises
    NotAppliedError where a probe fails, EngineDiedError where the server ends by itself.
    """
    gate = Gate.make()
    try:
        environment = {**plan.environment, "KEEL_GATE": str(gate.folder)}
        with _started(plan.command, environment) as process:
            address = _listening(process, gate)
            on_open(_probe(gate, address))
            gate.open()
            _watch(process, gate, address, canary_s, on_open)
    finally:
        gate.leave()


@contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[_Server]:
    """The server's process; however this is left, it has ended afterwards."""
    process = _Server(command, env=dict(environment))
    former = signal.signal(signal.SIGTERM, process.end)
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, former)
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(process: _Server, gate: Gate) -> ServerAddress:
    """Where the server listens, once it does. Raises NotAppliedError where Keel refused."""
    while gate.address is None or not _is_reached(gate, gate.address):
        if process.poll() is not None:
            if gate.reason is not None:
                raise NotAppliedError(gate.reason)
            raise EngineDiedError(
                f"vLLM's server ended with status {process.returncode} before it was up, for the "
                "reason that it printed above"
            )
        time.sleep(_TURN_S)
    return gate.address


def _is_reached(gate: Gate, address: ServerAddress) -> bool:
    """Whether the server takes connections: it says where it listens a little before it does."""
    with _client(gate, address) as client:
        try:
            client.get(f"{address.url}/version")
        except httpx.TransportError:
            return False
    return True


def _probe(gate: Gate, address: ServerAddress, *, of_candidate: bool = False) -> ProbeResult:
    with _client(gate, address) as client:
        if of_candidate:
            client.headers[CANDIDATE_HEADER] = "1"
        return probe_server(client, address.url)


def _client(gate: Gate, address: ServerAddress) -> httpx.Client:
    # Its own certificate is for the name that others reach it by.
    transport = httpx.HTTPTransport(uds=address.uds, verify=False)
    return httpx.Client(transport=transport, headers={PROBE_HEADER: gate.key}, timeout=_PATIENCE_S)


def _watch(
    process: _Server,
    gate: Gate,
    address: ServerAddress,
    canary_s: float,
    on_open: Callable[[ProbeResult], None],
) -> None:
    """Wait for the server's end, probe it now and then, and the floors that it is to go over to.

    Raises NotAppliedError where a probe of what is live fails, the gate is closed then, or where
    the engine found its cap lost, and EngineDiedError where the server ends by itself.
    """
    due = time.monotonic() + (canary_s or math.inf)
    while True:
        try:
            status = process.wait(_TURN_S)
        except subprocess.TimeoutExpired:
            if gate.reason is not None:  # vLLM's HTTP server may outlive its engine
                gate.close()
                raise NotAppliedError(gate.reason) from None
            if gate.candidate is not None:
                _try_candidate(gate, address, on_open)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + canary_s
            try:
                _probe(gate, address)
                gate.open()  # anew: its age is when that was last shown
            except EndpointError as error:  # busy, or about to end; the next wait will tell
                print(f"keel: {error}", file=sys.stderr)
                _check_listens(process, gate, address, error)
            except NotAppliedError as error:
                gate.close()
                if gate.reason is not None:  # the probe met an engine that had found it first
                    raise NotAppliedError(gate.reason) from error
                raise
            continue
        if gate.reason is not None:
            raise NotAppliedError(gate.reason)
        by_signal = status in (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM)
        if not by_signal and not (process.was_ended and status == 0):
            raise EngineDiedError(
                f"vLLM's server ended by itself with status {status}, for the reason that it "
                "printed above"
            )
        return


def _check_listens(
    process: _Server, gate: Gate, address: ServerAddress, error: EndpointError
) -> None:
    """See that a server which a probe did not reach still listens, or ends soon.

    Raises EngineDiedError for one that stays behind its closed port: a request that it cannot
    answer any more can keep it.
    """
    if not isinstance(error.__cause__, httpx.ConnectError):
        return
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
        return
    if not _is_reached(gate, address):
        raise EngineDiedError(
            "vLLM's server takes no connections any more, for the reason that it printed above"
        ) from error


def _try_candidate(
    gate: Gate, address: ServerAddress, on_open: Callable[[ProbeResult], None]
) -> None:
    """Let the floors that the server is to go over to through, if a probe of them passes."""
    candidate = gate.candidate
    assert candidate is not None
    try:
        result = _probe(gate, address, of_candidate=True)
    except (NotAppliedError, EndpointError) as error:
        gate.reject(candidate.number, str(error))
    else:
        if gate.go_over():
            on_open(result)
