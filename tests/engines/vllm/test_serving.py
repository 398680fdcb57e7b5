"""What a served engine holds, and which requests and engines are refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from keel.engines.vllm import serving
from keel.engines.vllm.deployment import KEY, OFF, Deployment, ServeEnvironment
from keel.engines.vllm.serving import (
    check_new_weights,
    check_request,
    default_of,
    deployment_for,
    fingerprint_of,
    refuse_unfit,
    settings_of,
)
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS
from keel.errors import ModelMismatchError, UsageError
from keel.store import export_capping_config_pt, save_floors
from keel.types import Floor, Floors, ModelIdentity
from tests.engines.vllm.toys import HIDDEN, direction

MODEL = ModelIdentity("made/here", layers=6, hidden_size=HIDDEN)
LOW = Floors((Floor(2, direction(2), 1.0), Floor(3, direction(3), 1.0)), "low", MODEL)
HIGH = Floors(tuple(Floor(n, direction(n), 2.0) for n in (3, 4, 5)), "high", MODEL)


@pytest.fixture
def source(tmp_path):
    save_floors([LOW, HIGH], tmp_path / "floors", default="high")
    return str(tmp_path / "floors")


def asked(source, setting=None, is_enforced=False):
    return ServeEnvironment(source, setting, is_enforced, 0.0)


@pytest.fixture
def served(source, monkeypatch):
    """The deployment of a server that was asked for these floors."""
    monkeypatch.setenv("KEEL_FLOORS", source)
    return deployment_for(asked(source))


def test_a_served_engine_holds_every_layer_of_every_setting_and_one_more_for_the_test(source):
    deployment = deployment_for(asked(source))
    assert deployment == Deployment((2, 3, 4, 5), settings=3, steps=1, default="high")


def test_an_enforced_engine_holds_one_setting_globally(source):
    deployment = deployment_for(asked(source, "low", is_enforced=True))
    assert deployment == Deployment(
        (2, 3), is_global=True, settings=2, steps=1, default="low", is_enforced=True
    )


def test_an_enforced_engine_knows_requests_where_the_setting_spares_first_tokens(tmp_path):
    """Held globally, every token would be."""
    spared = replace(LOW, floors=tuple(replace(floor, tokens="not_first") for floor in LOW))
    save_floors([spared], tmp_path / "spared", default="low")
    deployment = deployment_for(asked(str(tmp_path / "spared"), is_enforced=True))
    assert not deployment.is_global
    assert deployment.is_enforced


def test_two_floors_at_one_layer_make_room_for_two_steps(tmp_path):
    double = Floors((Floor(1, direction(1), 1.0), Floor(1, direction(2), 1.0)), "double")
    save_floors([double], tmp_path / "floors", default="double")
    assert deployment_for(asked(str(tmp_path / "floors"))).steps == 2


def test_the_default_is_the_files_own_unless_the_environment_names_another(source):
    assert default_of(asked(source)) == "high"
    assert default_of(asked(source, "low")) == "low"
    assert set(settings_of(asked(source))) == {"low", "high"}


def test_a_default_that_is_not_there_is_refused_with_those_that_are(source):
    with pytest.raises(UsageError, match="KEEL_SETTING is 'lwo'.*low, high"):
        deployment_for(asked(source, "lwo"))


@pytest.mark.parametrize("arguments", [{}, {KEY: "low"}, {KEY: "high"}, {KEY: OFF}, {"theirs": 1}])
def test_a_request_may_name_any_setting_of_the_file_or_none(served, arguments):
    check_request(arguments, served)


@pytest.mark.parametrize("name", ["lwo", "", "keel-self-test", 3, ["low"], None])
def test_a_request_for_anything_else_is_refused(served, name):
    if name is None:
        check_request({KEY: name}, served)  # as good as not named
        return
    with pytest.raises(UsageError, match=KEY):
        check_request({KEY: name}, served)


@pytest.mark.parametrize("name", ["low", OFF])
def test_an_enforced_engine_refuses_requests_that_choose(source, monkeypatch, name):
    monkeypatch.setenv("KEEL_FLOORS", source)
    deployment = deployment_for(asked(source, is_enforced=True))
    with pytest.raises(UsageError, match="holds every request alike"):
        check_request({KEY: name}, deployment)
    check_request({}, deployment)
    check_request({KEY: "high"}, deployment)


@pytest.mark.parametrize("argument", [RECORD, SPANS, SUMS, SCORE])
def test_a_server_records_nobody(served, argument):
    with pytest.raises(UsageError, match="started without recording"):
        check_request({argument: "k"}, served)


def test_an_engine_with_recordings_records(monkeypatch):
    monkeypatch.delenv("KEEL_FLOORS", raising=False)
    check_request({RECORD: "k", SPANS: [1, 2], KEY: "mine"}, Deployment(None, recordings=1))


def test_an_engine_without_keel_refuses_a_setting_and_nothing_else():
    check_request({"theirs": 1}, None)
    with pytest.raises(UsageError, match="started without Keel"):
        check_request({KEY: "low"}, None)


def test_a_request_does_not_make_the_server_read_its_environment_again(served, monkeypatch):
    """Names in it are compared with Keel's own by spelling, which took 6 ms a request."""
    check_request({KEY: "low"}, served)
    reads = []
    monkeypatch.setattr(ServeEnvironment, "of", classmethod(lambda cls: reads.append(1)))
    check_request({KEY: "low"}, served)
    assert not reads
    monkeypatch.setenv("KEEL_CANARY_MINUTES", "3")
    check_request({KEY: "low"}, served)
    assert reads


def config(model=".", layers=6, hidden=HIDDEN, transfer=None, **more):
    """vLLM's config, as far as it is looked at."""
    parallel = {"use_ubatching": False, "prefill_context_parallel_size": 1}
    parallel |= {name: value for name, value in more.items() if name in parallel}
    return SimpleNamespace(
        model_config=SimpleNamespace(
            model=model,
            get_total_num_hidden_layers=lambda: layers,
            get_hidden_size=lambda: hidden,
        ),
        parallel_config=SimpleNamespace(**parallel),
        speculative_config=more.get("speculative_config"),
        kv_transfer_config=transfer,
    )


def test_an_engine_for_the_floors_own_model_is_accepted(served):
    refuse_unfit(config("not/a/folder"), served)


@pytest.mark.parametrize("shape", [{"layers": 5}, {"hidden": 8}])
def test_floors_of_another_model_are_refused(served, shape):
    with pytest.raises(ModelMismatchError, match=r"made on made/here, 6 layers × 16|of width 16"):
        refuse_unfit(config("not/a/folder", **shape), served)


@pytest.mark.parametrize("shape", [{"layers": 5}, {"hidden": 8}])
def test_floors_that_name_no_model_must_fit_this_one(tmp_path, monkeypatch, shape):
    save_floors([Floors(HIGH.floors, "high")], tmp_path / "floors", default="high")
    monkeypatch.setenv("KEEL_FLOORS", str(tmp_path / "floors"))
    deployment = deployment_for(asked(str(tmp_path / "floors")))
    refuse_unfit(config(), deployment)
    with pytest.raises(ModelMismatchError, match=r"'high' holds layer 5 of a model of width 16"):
        refuse_unfit(config(**shape), deployment)


@pytest.fixture
def other_weights(tmp_path, monkeypatch):
    """Floors made on other weights than those of the folder `model`."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    other = ModelIdentity("made/here", layers=6, hidden_size=HIDDEN, weights_hash="0" * 64)
    save_floors([Floors(LOW.floors, "low", other)], tmp_path / "floors", default="low")
    monkeypatch.setenv("KEEL_FLOORS", str(tmp_path / "floors"))
    return tmp_path


def test_floors_of_other_weights_are_refused(other_weights):
    deployment = deployment_for(asked(str(other_weights / "floors")))
    with pytest.raises(ModelMismatchError, match=r"other weights.*--accept-other-weights"):
        refuse_unfit(config(str(other_weights / "model")), deployment)


def test_floors_of_other_weights_are_refused_by_hub_id_too(other_weights, monkeypatch):
    """Only folders were looked at: a hub's other weights of the same shape were served."""
    import huggingface_hub

    def snapshot(model, **_):
        assert model == "on/the/hub"
        return str(other_weights / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    deployment = deployment_for(asked(str(other_weights / "floors")))
    with pytest.raises(ModelMismatchError, match="made on other weights"):
        refuse_unfit(config("on/the/hub"), deployment)


def test_weights_that_cannot_be_looked_at_are_refused(other_weights, monkeypatch):
    monkeypatch.setattr(serving, "local_weights", lambda *_: None)
    deployment = deployment_for(asked(str(other_weights / "floors")))
    with pytest.raises(ModelMismatchError, match="cannot be looked at"):
        refuse_unfit(config("on/the/hub"), deployment)


def test_other_weights_are_served_where_that_is_asked_for(other_weights, monkeypatch):
    monkeypatch.setenv("KEEL_ACCEPT_OTHER_WEIGHTS", "1")
    deployment = deployment_for(asked(str(other_weights / "floors")))
    refuse_unfit(config(str(other_weights / "model")), deployment)
    with pytest.raises(ModelMismatchError, match="of width"):
        refuse_unfit(config(str(other_weights / "model"), hidden=8), deployment)


def test_capping_on_request_only_is_a_server_whose_default_is_none(source):
    """`KEEL_SETTING=none` was refused."""
    deployment = deployment_for(asked(source, OFF))
    assert (deployment.default, deployment.layers) == (OFF, (2, 3, 4, 5))
    with pytest.raises(UsageError, match="holds nothing"):
        deployment_for(asked(source, OFF, is_enforced=True))


def test_only_the_settings_of_the_list_are_loaded(source):
    def named(**more):
        return set(settings_of(ServeEnvironment(source, **more)))

    assert named(allowed=("low", OFF)) == {"low", "high"}  # and the default
    assert named(allowed=()) == {"high"}
    assert named(setting="low", allowed=(OFF,)) == {"low"}
    assert named(setting="low", allowed=(), key_grants=(("K", ("high",)),)) == {"low", "high"}
    with pytest.raises(UsageError, match="no setting 'lwo'"):
        named(allowed=("lwo",))


def test_published_files_are_served_as_they_are(tmp_path):
    """A `capping_config.pt` of several settings was refused although the environment names one."""
    export_capping_config_pt([LOW, HIGH], tmp_path / "capping_config.pt")
    source = str(tmp_path / "capping_config.pt")
    deployment = deployment_for(asked(source, "low"))
    assert (deployment.default, deployment.layers) == ("low", (2, 3, 4, 5))
    assert set(settings_of(asked(source, "low"))) == {"low", "high"}
    with pytest.raises(UsageError, match="2 settings"):
        deployment_for(asked(source))


def test_servers_that_hold_alike_share_a_fingerprint(source, tmp_path):
    save_floors([HIGH, LOW], tmp_path / "same", default="high")
    save_floors([LOW, replace(HIGH, floors=HIGH.floors[:2])], tmp_path / "other", default="high")
    same, other = str(tmp_path / "same"), str(tmp_path / "other")
    assert fingerprint_of(asked(source)) == fingerprint_of(asked(same))
    assert fingerprint_of(asked(source)) != fingerprint_of(asked(other))
    assert fingerprint_of(asked(source)) != fingerprint_of(asked(source, "low"))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"use_ubatching": True}, "microbatches"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallelism"),
    ],
)
def test_what_computes_other_tokens_than_the_batch_says_is_refused_per_request(more, named):
    per_request = Deployment(None)
    with pytest.raises(UsageError, match=f"cannot follow {named}.*KEEL_ENFORCE=1"):
        refuse_unfit(config(**more), per_request)
    refuse_unfit(config(**more), Deployment(None, is_global=True))


def test_recording_of_drafted_tokens_is_refused_and_their_steering_is_not():
    drafting = config(speculative_config=object())
    with pytest.raises(UsageError, match="tokens that may be rejected"):
        refuse_unfit(drafting, Deployment(None, recordings=1))
    refuse_unfit(drafting, Deployment(None))


def transfer(name, *inner, **more):
    """A KV connector's config; that of several, where others are given."""
    extra = {"connectors": [vars(each) for each in inner]} if inner else {}
    return SimpleNamespace(kv_connector=name, kv_connector_extra_config=extra, **more)


SALTED = transfer("OffloadingConnector")


@pytest.mark.parametrize(
    "connector",
    [
        *map(transfer, ("ExampleConnector", "LMCacheConnectorV1", "HF3FSKVConnector")),
        *map(transfer, ("NixlConnector", "MooncakeConnector", "FromTomorrow")),
        transfer("MultiConnector", SALTED, transfer("ExampleConnector")),
        transfer("MultiConnector", transfer("MultiConnector", transfer("LMCacheMPConnector"))),
        transfer("OffloadingConnector", kv_connector_module_path="their.own"),
    ],
    ids=lambda c: c.kv_connector,
)
def test_a_cache_that_was_not_shown_to_keep_the_salt_is_refused(connector):
    """Inside MultiConnector, ExampleConnector gave requests the keys of another setting."""
    for deployment in (Deployment(None), Deployment(None, is_global=True)):
        with pytest.raises(UsageError, match="was not shown to keep the cache salt"):
            refuse_unfit(config(transfer=connector), deployment)


@pytest.mark.parametrize(
    "connector",
    [None, SALTED, transfer("MultiConnector", SALTED, transfer("SimpleCPUOffloadConnector"))],
)
def test_caches_that_look_up_by_salted_hashes_are_accepted(connector):
    refuse_unfit(config(transfer=connector), Deployment(None))


def test_a_pooling_server_is_refused(served):
    """It died in the self-test after half a minute, with a bare assertion."""
    pooling = config()
    pooling.model_config.runner_type = "pooling"
    with pytest.raises(UsageError, match="--runner pooling answers nothing"):
        refuse_unfit(pooling, served)


def test_weights_that_are_loaded_later_are_looked_at_too(other_weights, tmp_path):
    model = SimpleNamespace(model=str(other_weights / "model"), revision=None)
    with pytest.raises(ModelMismatchError, match="other weights"):
        check_new_weights("reload_weights", {}, model)
    (tmp_path / "right").mkdir()
    with pytest.raises(ModelMismatchError, match="cannot be looked at"):
        check_new_weights("reload_weights", {"weights_path": str(tmp_path / "right")}, model)
    for method in ("update_weights", "start_weight_update"):
        with pytest.raises(UsageError, match=f"{method} brings weights that cannot be looked at"):
            check_new_weights(method, {}, model)
    check_new_weights("keel_call", {}, model)


def test_weights_that_are_accepted_may_change(other_weights, monkeypatch):
    monkeypatch.setenv("KEEL_ACCEPT_OTHER_WEIGHTS", "1")
    check_new_weights("update_weights", {}, SimpleNamespace(model="any", revision=None))
