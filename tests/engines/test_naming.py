"""What stands behind `--engine`: a name, and how it is to start."""

import pytest

from keel.errors import UsageError
from keel.settings import LoadSettings, VllmSettings, parse_engine


def test_a_bare_name_tells_nothing():
    assert parse_engine("vllm") == ("vllm", {})
    assert parse_engine("transformers") == ("transformers", {})


def test_settings_come_in_their_own_kind():
    """Text, whole number, share, yes or no: as the settings' fields are declared."""
    name, told = parse_engine("vllm:revision=12,max_model_len=2048,memory_share=0.5,eager=true")
    made = VllmSettings(**told)
    assert (made.revision, made.max_model_len, made.memory_share) == ("12", 2048, 0.5)
    assert (name, made.eager) == ("vllm", True)


def test_the_other_engine_has_its_own():
    _, told = parse_engine("transformers:revision=abc")
    assert LoadSettings(**told).revision == "abc"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ollama", "engine is 'ollama'"),
        ("vllm:eagre=true", "no setting eagre; there are dtype, eager"),
        ("vllm:eager=perhaps", "eager is 'perhaps'"),
        ("vllm:recordings=many", "recordings is 'many'"),
        ("vllm:eager", "'eager' is not NAME=VALUE"),
        ("vllm:eager=true,eager=false", "each name once"),
        ("vllm:layers=3", "no setting layers"),
        ("transformers:eager=true", "the transformers engine has no setting eager"),
    ],
)
def test_what_an_engine_cannot_be_told_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        parse_engine(given)
