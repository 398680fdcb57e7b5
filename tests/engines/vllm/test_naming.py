"""Where a request's body may name its setting, and which names are refused."""

import pytest

from keel.engines.vllm.deployment import KEY
from keel.engines.vllm.naming import named_setting
from keel.errors import UsageError


@pytest.mark.parametrize(
    "body",
    [
        {"vllm_xargs": {KEY: "low"}},
        {"sampling_params": {"extra_args": {KEY: "low"}}},
        {"vllm_xargs": {KEY: "low"}, "sampling_params": {"extra_args": {KEY: "low"}}},
        {"vllm_xargs": {KEY: "low", "other": 1}, "messages": [{"content": "keel"}]},
    ],
)
def test_a_setting_is_named_where_vllm_hands_it_on(body):
    assert named_setting(body) == "low"


@pytest.mark.parametrize(
    "body",
    [
        *(
            {},
            {"vllm_xargs": {}},
            {"vllm_xargs": {KEY: None}},
            {"vllm_xargs": None},
            None,
            [],
            "keel",
        ),
        {"messages": [{"role": "user", "content": "x", KEY: "low"}]},
        {"tools": [{"function": {"parameters": {"properties": {"keel": {}}}}}]},
        {"response_format": {"json_schema": {"properties": {"keel": {"type": "string"}}}}},
        {"structured_outputs": {"json": {"properties": {"keel": {}}}}},
        {"metadata": {"vessel": "low", "kelvin": 3, "knee": 1}},
        {"metadata": {"setting": "a ship", "cap": "red", "heel": "left"}},
        {"reasoning_effort": "low", "keep_alive": 5, "user": "Neel", "top_k": 3},
        {"vllm_xargs": {"level": 1, "wheel": 2, "captions": 3, "model": "x"}},
    ],
)
def test_other_bodies_name_none(body):
    assert named_setting(body) is None


@pytest.mark.parametrize(
    "body",
    [
        {KEY: "low"},
        {"Keel": "low"},
        {"vllm_xargs": {"Keel": "low"}},
        {"vllm_xargs": {"KEEL": "low"}},
        {"vllm_xargs": {"keel_setting": "low"}},
        {"vllm_xargs": {"keel-floors": "low"}},
        {"vllm_xargs": {"kel": "low"}},
        {"vllm_xargs": {"kele": "low"}},
        {"vllm_xargs": {"keal": "low"}},
        {"vllm_xargs": {"jeel": "low"}},
        {"vllm_xargs": {"keels": "low"}},
        {"vllm_xargs": {"setting": "low"}},
        {"vllm_xargs": {"Floors": "low"}},
        {"sampling_params": {"extra_args": {"cap": "low"}}},
        {"sampling_params": {"setting": "low"}},
        {"setting": "low"},
        {"cap": "low"},
        {"capping": True},
        {"steering": "low"},
        {"kell": "low"},
        {"extra_body": {"vllm_xargs": {KEY: "low"}}},
        {"extra_args": {KEY: "low"}},
        {"vllm_xarg": {KEY: "low"}},
        {"sampling_params": {"vllm_xargs": {KEY: "low"}}},
        {"sampling_params": {KEY: "low"}},
        {"metadata": {KEY: "low"}},
        {"chat_template_kwargs": {KEY: "low"}},
        {"requests": [{"vllm_xargs": {KEY: "low"}}]},
    ],
)
def test_a_name_that_vllm_would_ignore_is_refused_with_where_it_belongs(body):
    """Each was answered under the default, with status 200."""
    with pytest.raises(UsageError, match=r'would be ignored.*"vllm_xargs": {"keel": "..."}'):
        named_setting(body)


def test_two_names_that_differ_are_refused():
    with pytest.raises(UsageError, match=r"names 2 settings, \['high', 'low'\]"):
        named_setting(
            {"vllm_xargs": {KEY: "low"}, "sampling_params": {"extra_args": {KEY: "high"}}}
        )


@pytest.mark.parametrize("name", [3, ["low"], True, {"a": 1}])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(UsageError, match="expected the name of a setting"):
        named_setting({"vllm_xargs": {KEY: name}})
