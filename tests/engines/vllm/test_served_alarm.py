"""An alarm that does not fit its server: said in one line, and refused where one is required."""

from dataclasses import replace

import pytest

from keel.alarm import Alarm
from keel.engines.vllm.deployment import ServeEnvironment
from keel.engines.vllm.serving import check_held, deployment_for, facts_of, line_of
from keel.errors import KeelError, ModelMismatchError, UsageError
from keel.store import save_floors
from keel.store.alarms import write_alarm
from keel.types import Floor, Floors, ModelIdentity
from tests.engines.vllm.toys import HIDDEN, direction

IDENTITY = ModelIdentity(model_id="m", layers=6, hidden_size=HIDDEN, weights_hash="a" * 64)
FITS = Alarm(
    layer=1,
    direction=direction(3),
    zero=0.0,
    gap=1.0,
    expected=(1.0,),
    between=0.3,
    within=0.3,
    token=1.0,
    identity=IDENTITY,
)
LOW = Floors((Floor(2, direction(2), 1.0), Floor(3, direction(2), 1.0)), "low", identity=IDENTITY)


@pytest.fixture
def environment(tmp_path):
    save_floors([LOW], tmp_path / "floors.safetensors", default="low")
    alarm = str(tmp_path / "alarm.json")
    return ServeEnvironment(str(tmp_path / "floors.safetensors"), alarm=alarm)


def facts(environment):
    return facts_of(deployment_for(environment), environment)


def test_an_alarm_that_fits_is_watched_by(environment, tmp_path):
    write_alarm(FITS, tmp_path / "alarm.json")
    assert deployment_for(environment).watched_layer == 1
    assert facts(environment)["watching"]["layer"] == 1
    assert "conversations watched at layer 1" in line_of(facts(environment))


def test_the_rate_is_the_servers_where_it_has_its_own(environment, tmp_path):
    """`/keel` named the alarm's own, 0.01, of a server that was started with 0.3."""
    write_alarm(FITS, tmp_path / "alarm.json")
    assert facts(environment)["watching"]["rate"] == FITS.rate == 0.01
    assert facts(replace(environment, alarm_rate=0.3))["watching"]["rate"] == 0.3


def test_a_rate_that_an_alarm_was_not_tuned_for_is_named_before_a_model_is_loaded(
    environment, tmp_path
):
    """The server loaded its model and ended with a traceback."""
    tuned = replace(FITS, statistic="glr", thresholds={"0.01": 5.0}, horizon=12)
    write_alarm(tuned, tmp_path / "alarm.json")
    other = replace(environment, alarm_rate=0.05)
    assert deployment_for(environment).watched_layer == 1
    assert deployment_for(other).watched_layer is None
    assert "tuned for the rates 0.01, not for 0.05" in facts(other)["watching"]["reason"]
    with pytest.raises(UsageError, match="not for 0.05"):
        deployment_for(replace(other, requires_alarm=True))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"layer": 2}, "the alarm reads layer 2 and layers from 2 on are capped"),
        ({"identity": replace(IDENTITY, weights_hash="b" * 64)}, "made on another model"),
        ({"identity": replace(IDENTITY, layers=9)}, "made on another model"),
        (None, "alarm"),
        ("broken", "alarm"),
    ],
    ids=["in the band", "other weights", "other shape", "missing", "broken"],
)
def test_an_alarm_that_does_not_fit_is_named_and_not_watched_by(
    environment, tmp_path, changed, reason
):
    if isinstance(changed, dict):
        write_alarm(replace(FITS, **changed), tmp_path / "alarm.json")
    elif changed:
        (tmp_path / "alarm.json").write_text('{"format": ')
    assert deployment_for(environment).watched_layer is None
    assert reason in facts(environment)["watching"]["reason"]
    line = line_of(facts(environment))
    assert "NOT watching conversations" in line
    assert "\n" not in line
    with pytest.raises(KeelError, match=reason):
        deployment_for(replace(environment, requires_alarm=True))


def test_a_server_without_an_alarm_says_nothing_of_watching(environment):
    without = replace(environment, alarm=None)
    assert facts(without)["watching"] is None
    assert "watch" not in line_of(facts(without))


HIGH = Floors((Floor(3, direction(2), 1.0),), "high", identity=IDENTITY)
OTHER = Floors((Floor(3, direction(2), 1.0),), "low", identity=replace(IDENTITY, layers=7))
LOWEST = Floors((Floor(1, direction(2), 1.0),), "low", identity=IDENTITY)


def after(environment, tmp_path, floors):
    """A server's environment once its floors were changed to these."""
    path = tmp_path / "after.safetensors"
    save_floors([floors], path, default=floors.name)
    return replace(environment, floors=str(path))


@pytest.mark.parametrize(
    ("floors", "error", "reason"),
    [
        (LOWEST, UsageError, r"acts at layers \[1\], but this server was started for \[2, 3\]"),
        (OTHER, ModelMismatchError, "made on another model"),
        (HIGH, UsageError, "KEEL_ALARM_ACTION is 'setting:low', expected"),
    ],
    ids=["at the alarm's layer", "another model's", "without the action's setting"],
)
def test_floors_under_which_the_server_could_not_be_watched_are_refused(
    environment, tmp_path, floors, error, reason
):
    write_alarm(FITS, tmp_path / "alarm.json")
    acting = replace(environment, alarm_action="setting:low")
    with pytest.raises(error, match=reason):
        check_held(after(acting, tmp_path, floors), deployment_for(acting))


def test_floors_that_a_running_alarm_would_have_fitted_do_not_make_it_watch(environment, tmp_path):
    """Started with an alarm in its band, an engine reads nothing; it was said to watch."""
    write_alarm(replace(FITS, layer=2), tmp_path / "alarm.json")
    deployment = deployment_for(environment)
    watching = facts_of(deployment, after(environment, tmp_path, HIGH))["watching"]
    assert watching == {"reason": "the alarm did not fit the first floors; start the server anew"}


@pytest.mark.parametrize("is_deleted", [False, True], ids=["other", "deleted"])
def test_after_a_change_of_floors_the_alarm_is_still_that_of_the_start(
    environment, tmp_path, is_deleted
):
    write_alarm(FITS, tmp_path / "alarm.json")
    needed = replace(environment, requires_alarm=True)
    deployment = deployment_for(needed)
    before = facts_of(deployment, needed)["watching"]
    (tmp_path / "alarm.json").unlink()
    if not is_deleted:
        write_alarm(replace(FITS, layer=2), tmp_path / "alarm.json")
    following = after(needed, tmp_path, LOW)
    check_held(following, deployment)
    assert facts_of(deployment, following)["watching"] == before
