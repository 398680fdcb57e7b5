"""Where a header and the first word are one token, under tokenizers of every kind."""

from itertools import cycle

import pytest

from keel.engines import ChatTemplate
from keel.types import Conversation, Message
from tests.engines.tokenizers_of_kinds import KINDS

VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}"
    "ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} "
    "[/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_01 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
OPENCHAT = (
    "{{ bos_token }}{% for m in messages %}Correct {{ m.role | title }}: {{ m.content }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}Correct Assistant:{% endif %}"
)
FALCON = (
    "{% for m in messages %}{% if not loop.first %}\n\n{% endif %}"
    "{{ m.role | title }}: {{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}\n\nAssistant:{% endif %}"
)
CHATQA = FALCON.replace("{% for", "{{ bos_token }}{% for", 1)
AMBER = FALCON.replace("{{ m.role", "###{{ m.role").replace("\n\nAssistant", "\n###Assistant")
FORMS = {
    "Vicuna": VICUNA,
    "Llama 2": LLAMA_2,
    "Mistral 0.1": MISTRAL_01,
    "OpenChat": OPENCHAT,
    "Falcon": FALCON,
    "ChatQA": CHATQA,
    "Amber": AMBER,
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def tokenizer(request):
    return request.param()


def turns(tokenizer, source: str, *texts: str) -> list[str]:
    tokenizer.chat_template = source
    said = [Message(s, t) for s, t in zip(cycle(("user", "assistant")), texts, strict=False)]
    read = ChatTemplate(tokenizer).transcript(Conversation(tuple(said)))
    return [tokenizer.decode(read.token_ids[t.start : t.stop]).strip() for t in read.turns]


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_the_first_word_of_an_answer_is_content(tokenizer, source):
    """Once, its token was lost, being the header's space as well."""
    said = turns(tokenizer, source, "hello there", "good day", "and you", "very well indeed")
    assert said == ["good day", "very well indeed"]


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_an_answer_of_one_word_does_not_vanish(tokenizer, source):
    assert turns(tokenizer, source, "hello", "yes", "and you", "no") == ["yes", "no"]


def test_a_mark_that_is_one_token_with_the_lines_behind_it_is_content():
    """In GPT-2's vocabulary, and its heirs', a full stop and an empty line are one token."""
    tokenizer = KINDS["byte level"]()
    tokenizer.add_tokens([".\n\n", "\n\n\n"])
    assert turns(tokenizer, FALCON, "hello", ".", "and you", "yes") == [".", "yes"]


def test_white_space_of_both_is_no_content():
    """It says nothing of the answer: what the template puts there, every answer has."""
    tokenizer = KINDS["byte level"]()
    tokenizer.add_tokens([".\n\n", "\n\n\n"])
    plain = FALCON.replace(" | trim", "")
    assert turns(tokenizer, plain, "hello", "yes\n", "and you", "no") == ["yes", "no"]
