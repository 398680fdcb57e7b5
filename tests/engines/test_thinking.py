"""What was thought is parted from what was answered, however a model's template writes it."""

import pytest

from keel.engines.thinking import Delimiters, ends_open, part

WRITTEN = {
    "a pair": "<think>well, well</think>\n\ngood day",
    "lines": "<think>\nwell, well\n</think>\n\ngood day",
    "thinking": "<thinking>well, well</thinking>good day",
    "thought": "<thought>\nwell, well\n</thought>\ngood day",
    "seed": "<seed:think>well, well</seed:think>good day",
    "minimax": "<mm:think>well, well</mm:think>good day",
    "hunyuan": "<think:opensource>well, well</think:opensource>good day",
    "hunyuan answer": "<think>\nwell, well\n</think>\n<answer>\ngood day\n</answer>",
    "granite 3.3": "<think>well, well</think><response>good day</response>",
    "granite 3.2": "Here is my thought process: well, well Here is my response: good day",
    "mistral": "[THINK]well, well[/THINK]good day",
    "command": "<|START_THINKING|>well, well<|END_THINKING|>"
    "<|START_RESPONSE|>good day<|END_RESPONSE|>",
    "apertus": "<|inner_prefix|>well, well<|inner_suffix|>good day",
    "openthinker": "<|begin_of_thought|>well, well<|end_of_thought|>\n\n"
    "<|begin_of_solution|>good day<|end_of_solution|>",
    "kimi vl": "◁think▷well, well◁/think▷good day",
    "gemma 4": "<|channel>thought\nwell, well<channel|>good day",
    "solar": "<|think|>well, well<|end|><|begin|>assistant<|content|>good day",
    "gpt-oss": "<|channel|>analysis<|message|>well, well<|end|><|start|>assistant<|channel|>final"
    "<|message|>good day<|return|>",
    "gpt-oss decoded": "analysiswell, wellassistantfinalgood day",
    "apriel": "Here are my reasoning steps:\nwell, well\n[BEGIN FINAL RESPONSE]\ngood day",
    "longcat": "<longcat_think>\nwell, well\n</longcat_think>\ngood day",
    "marco": "<Thought>\nwell, well\n</Thought>\n<Output>\ngood day\n</Output>",
    "upper case": "<REASONING>well, well</REASONING>\n\n<CONCLUSION>good day</CONCLUSION>",
    "attributes": '<think effort="high">well, well</think>good day',
    "start and end": "<think_start>well, well<think_end>good day",
    "working out": "<start_working_out>well, well<end_working_out><SOLUTION>good day</SOLUTION>",
    "scratchpad": "<scratchpad>well, well</scratchpad>\ngood day",
    "pipes": "<|begin_of_thinking|>well, well<|end_of_thinking|>good day",
    "pipes, closed by a slash": "<|thinking|>well, well<|/thinking|>good day",
    "wide pipes": "<｜think｜>well, well<｜/think｜>good day",
    "medgemma": "<unused94>thought\nwell, well\n<unused95>good day",
    "kimi k3": "<|open|>think<|sep|>well, well<|close|>think<|sep|><|open|>response<|sep|>good day"
    "<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>",
    "granite 3.2, short": "Here's my thought process: well, well Here's my response: good day",
    "no opening, kimi k3": "well, well<|close|>think<|sep|><|open|>response<|sep|>good day",
    "no opening, pipes": "well, well<|END_THINKING|>good day",
    "no opening": "well, well\n</think>\n\ngood day",
    "no opening, mistral": "well, well[/THINK]good day",
    "no opening, apriel": "well, well\n[BEGIN FINAL RESPONSE]\ngood day",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_thinking_is_parted_from_the_answer(text):
    said = part(text)
    assert (said.thinking, said.answer) == ("well, well", "good day")
    assert (
        text[said.answer_start :].lstrip().endswith("good day")
        or "good day" in text[said.answer_start :]
    )


@pytest.mark.parametrize(
    "text",
    [
        "<think>well, well",
        "[THINK]well, well",
        "\n<think>\nwell, well\n",
        "<|start_thinking|>well, well",
        "<longcat_think>well, well",
        "<|open|>think<|sep|>well, well",
    ],
)
def test_thinking_that_was_cut_off_is_all_there_is(text):
    assert part(text).thinking == "well, well"
    assert part(text).answer == ""


def test_after_a_prompt_that_opens_the_block_a_text_without_an_end_is_thinking():
    assert part("well, well", is_open=True).thinking == "well, well"
    assert part("well</think>good", is_open=True).answer == "good"
    assert part("<think>well</think>good", is_open=True).thinking == "well"
    assert part("well, well").answer == "well, well"


def test_thinking_in_several_blocks_is_joined():
    said = part("<think>a</think>one <think>b</think>two")
    assert (said.thinking, said.answer) == ("a\n\nb", "one two")


def test_what_stands_between_thoughts_is_no_thought():
    """The control tokens of gpt-oss's second channel were read as words of its thinking."""
    said = part(
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b"
        "<|end|><|start|>assistant<|channel|>analysis<|message|>c<|end|><|start|>assistant"
        "<|channel|>final<|message|>good day<|return|>"
    )
    assert (said.thinking, said.answer) == ("a\n\nb\n\nc", "good day")
    assert part("<|channel|>final<|message|>good day<|return|>").answer == "good day"


def test_an_empty_block_is_no_thinking():
    said = part("<think>\n\n</think>\n\ngood day")
    assert (said.thinking, said.answer) == ("", "good day")


@pytest.mark.parametrize(
    "text",
    [
        "Wrap it in `<think>` tags.",
        "I <think> so.",
        'Say "</think>" to end it.',
        "`<think>a</think>` is how.",
        "the analysis is done",
        "So I said: Here is my response: no.",
        "a < b and b > c",
        "The form has <reason>late</reason> in it.",
        "Send <scratchpad> first.",
        "Fill <unused7> in.",
        "I [THINK] so.",
        "<think hard> is what he said.",
        "He says <Thought for the day> and leaves.",
        "",
    ],
)
def test_what_is_said_of_thinking_is_no_thinking(text):
    assert part(text).answer == text


def test_a_templates_own_delimiters_are_known_beside_the_others():
    own = (
        Delimiters.literal(" to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>"),
    )
    text = " to=self<|message|>well<|eom|><|start|>assistant to=user<|message|>good"
    assert part(text, own).answer == "good"
    assert part("<think>well</think>good", own).answer == "good"


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|Assistant|><think>\n", True),
        ("[/INST][THINK]", True),
        ("<|CHATBOT_TOKEN|><|START_THINKING|>", True),
        ("<|begin_assistant|>\nHere are my reasoning steps:\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|Assistant|></think>", False),
        ("write <think> first<|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_a_prompt_that_opens_the_block_is_noticed(prompt, is_open):
    assert ends_open(prompt) is is_open
