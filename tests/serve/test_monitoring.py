"""The board and the alert rules ask for series that are exported, and keep their rate."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from keel.engines.vllm.metrics import EngineNumbers, ServerNumbers, series_of
from keel.serve.conversations import ConversationStore, Namer
from keel.serve.watcher import Watcher
from tests.serve.alarms import alarm

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
BOARD = json.loads((MONITORING / "grafana.json").read_text())
RULES = (MONITORING / "alerts.yml").read_text()
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


@pytest.fixture
def exported(tmp_path):
    """Labels by the names under which Prometheus has the series."""
    store = ConversationStore(tmp_path / "c.sqlite")
    engine = EngineNumbers(True, 1.0, {"a": 1}, {"a": 1}, {"a": {1: 1}})
    series = series_of(ServerNumbers("m", True, {}, 1.0), [engine])
    series += Watcher(alarm(), store, Namer(store.secret)).series("m")
    store.close()
    endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {s.name + end: {*s.labels, "le"} for s in series for end in endings[s.kind]}


def test_every_series_that_is_asked_for_is_exported(exported):
    for text in [*EXPRESSIONS, RULES.partition("groups:")[2].replace("absent(", "(")]:
        names = set(re.findall(r"\bkeel_[a-z_]+", text))
        assert names <= set(exported), names - set(exported)


def test_every_label_that_is_asked_for_is_one_of_its_series(exported):
    for text in EXPRESSIONS:
        labels = {
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", text)
            for label in group.split(",")
        }
        known = set().union(*(exported[n] for n in re.findall(r"\bkeel_[a-z_]+", text)))
        assert labels <= known, (text, labels - known)


def test_no_series_is_by_conversation_user_or_request(exported):
    labels = set().union(*exported.values())
    assert not labels & {"conversation", "user", "request", "request_id", "system", "client"}


@pytest.mark.parametrize("conversations", [10, 100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_healthy_fleet_seldom_alarms(conversations, rate):
    """The rule's bound, E + 3.5 √E + 3, against the binomial itself: under 1 hour in 1000."""
    from scipy.stats import binom

    expected = rate * conversations
    assert "3.5 * sqrt(" in RULES
    assert binom.sf(expected + 3.5 * expected**0.5 + 3, conversations, rate) < 1e-3


def test_panels_lie_beside_each_other():
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize(
    "words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_prometheus_takes_the_rules_and_they_fire_as_planted(words):
    """An hour in which every answer was unread, and none was judged, raised nothing before."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: it comes with Prometheus (apt-get install prometheus)")
    ran = subprocess.run([promtool, *words], cwd=MONITORING, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
