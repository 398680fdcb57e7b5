"""What is asked of Keel inside vLLM: by the engine's config, or by the environment."""

import json

import pytest

from keel.engines.vllm.deployment import GRAPH_VERSION, KEY, OFF, Deployment, ServeEnvironment
from keel.errors import UsageError


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(None),
        Deployment((3, 4), is_global=True, default="band", is_enforced=True),
        Deployment((), settings=1, steps=5, recordings=7, probes=2),
    ],
)
def test_a_deployment_comes_back_from_the_engines_config(deployment):
    # vLLM sends it to other processes and machines, at times as JSON.
    config = {"theirs": 1, KEY: json.loads(json.dumps(deployment.to_config()))}
    assert Deployment.from_config(config) == deployment


@pytest.mark.parametrize("config", [None, {}, {"theirs": 1}])
def test_without_an_entry_there_is_no_deployment(config):
    assert Deployment.from_config(config) is None


def test_a_config_of_another_keel_is_refused():
    ours = Deployment(None).to_config()
    missing = {name: value for name, value in ours.items() if name != "probes"}
    later = {**ours, "graph_version": GRAPH_VERSION + 1}
    for entry in (missing, {**ours, "more": 1}, later, "on", []):
        with pytest.raises(UsageError, match=r"is not this Keel's.*the same version"):
            Deployment.from_config({KEY: entry})


@pytest.mark.parametrize(
    "wrong",
    [{"settings": 0}, {"steps": 0}, {"recordings": -1}, {"probes": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_deployment_of_nothing_is_refused(wrong):
    with pytest.raises(UsageError):
        Deployment(None, **wrong)


@pytest.mark.parametrize("recorded", [{"recordings": 1}, {"probes": 1}])
def test_a_global_deployment_cannot_tell_requests_apart_to_record_them(recorded):
    with pytest.raises(UsageError, match="no map of requests"):
        Deployment(None, is_global=True, **recorded)


def test_requests_that_name_nothing_are_left_alone_by_default():
    assert Deployment(None).default == OFF


def test_an_environment_that_asks_nothing_keeps_keel_out():
    for environment in ({}, {"KEEL_SETTING": "", "KEEL_ENFORCE": "0"}):
        assert ServeEnvironment.of(environment) is None


@pytest.mark.parametrize("floors", ["", " "])
def test_floors_that_are_set_to_nothing_do_not_serve_uncapped(floors):
    """`KEEL_FLOORS=$RUN`, where RUN was not set, came up uncapped without a word."""
    with pytest.raises(UsageError, match="KEEL_FLOORS is empty"):
        ServeEnvironment.of({"KEEL_FLOORS": floors})


@pytest.mark.parametrize("switch", ["1", "2", "true"])
def test_a_front_end_that_passes_keels_by_is_refused(switch):
    """vLLM takes any number but 0; under `vllm serve` none was refused."""
    with pytest.raises(UsageError, match="VLLM_USE_RUST_FRONTEND"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "VLLM_USE_RUST_FRONTEND": switch})
    held = ServeEnvironment.of({"KEEL_FLOORS": "run", "VLLM_USE_RUST_FRONTEND": "0"})
    assert held == ServeEnvironment("run")


def test_the_environment_names_floors_setting_enforcing_and_canary():
    assert ServeEnvironment.of({"KEEL_FLOORS": "run"}) == ServeEnvironment("run", None, False, 0.0)
    given = {"KEEL_FLOORS": "run", "KEEL_SETTING": "low", "KEEL_ENFORCE": "1"}
    # 1.5 minutes are 90 seconds.
    assert ServeEnvironment.of({**given, "KEEL_CANARY_MINUTES": "1.5"}) == ServeEnvironment(
        "run", "low", True, 90.0
    )


@pytest.mark.parametrize("minutes", ["soon", "-1", "nan", "inf", ""])
def test_a_canary_that_is_no_time_is_refused(minutes):
    """NaN and negative minutes were taken once, and tested the engine at every step."""
    with pytest.raises(UsageError, match="KEEL_CANARY_MINUTES is"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "KEEL_CANARY_MINUTES": minutes})


def test_a_typo_does_not_switch_enforcing_off():
    with pytest.raises(UsageError, match="KEEL_ENFORCE is 'yes', expected 0 or 1"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "KEEL_ENFORCE": "yes"})


@pytest.mark.parametrize("name", ["KEEL_SETTING", "KEEL_ENFORCE", "KEEL_CANARY_MINUTES"])
def test_a_typo_in_the_floors_does_not_serve_uncapped(name):
    with pytest.raises(UsageError, match=f"{name} is '1', but KEEL_FLOORS does not say what"):
        ServeEnvironment.of({name: "1"})


@pytest.mark.parametrize(
    "name",
    ["KEEL_FLOOR", "KEEL_FLORS", "keel_floors", "KEEEL_FLOORS", "KEL_FLOORS", "KEEL_ENFORCED"],
)
def test_a_variable_that_looks_like_ours_is_an_error(name):
    """With `KEEL_FLOOR=run` the server came up uncapped, without a word."""
    with pytest.raises(UsageError, match=f"{name} is no variable of Keel's, .*KEEL_"):
        ServeEnvironment.of({name: "run"})


def test_other_programs_variables_are_left_alone():
    """Kubernetes sets the last three beside any service that is called keel."""
    theirs = ("HOME", "VLLM_PLUGINS", "KEYS", "KEEL_PORT", "KEEL_SERVICE_HOST", "KEEL_PORT_80_TCP")
    assert ServeEnvironment.of(dict.fromkeys(theirs, "1")) is None


def test_settings_and_keys_are_lists():
    environment = {"KEEL_FLOORS": "run", "KEEL_ALLOW": "low, none", "ALICE": "s3cret"}
    served = ServeEnvironment.of({**environment, "KEEL_ALLOW_KEYS": "ALICE:none,high"})
    assert served.allowed == ("low", "none")
    assert served.key_grants == (("ALICE", ("none", "high")),)
    assert ServeEnvironment.of({**environment, "KEEL_ALLOW": ""}).allowed == ()


@pytest.mark.parametrize("grants", ["ALICE", "ALICE:", "BOB:none"])
def test_a_grant_without_settings_or_without_a_key_is_refused(grants):
    with pytest.raises(UsageError, match="KEEL_ALLOW_KEYS"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "KEEL_ALLOW_KEYS": grants, "ALICE": "s3cret"})


@pytest.mark.parametrize("rate", ["0", "0.5", "1", "-0.01", "nan", "1 %"])
def test_a_rate_of_alarms_that_is_no_share_is_refused_before_a_model_is_loaded(rate):
    with pytest.raises(UsageError, match="KEEL_ALARM_RATE is .*, expected a share between 0"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "KEEL_ALARM_RATE": rate})


@pytest.mark.parametrize("url", ["localhost:9000/alarms", "ftp://x/", "/alarms"])
def test_a_webhook_that_is_no_address_is_refused_before_a_model_is_loaded(url):
    with pytest.raises(UsageError, match="KEEL_ALARM_WEBHOOK is .*, expected a URL"):
        ServeEnvironment.of({"KEEL_FLOORS": "run", "KEEL_ALARM_WEBHOOK": url})
