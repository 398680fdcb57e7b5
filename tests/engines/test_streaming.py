"""Text comes piece by piece and is whole in the end."""

from keel.engines.decoding import TextStream
from keel.testing import tiny_tokenizer


def heard(*texts: str) -> dict[int, list[str]]:
    """The pieces of each text, its tokens given in turn, one of every row at a time."""
    tokenizer = tiny_tokenizer()
    pieces: dict[int, list[str]] = {row: [] for row in range(len(texts))}
    stream = TextStream(tokenizer, lambda row, piece: pieces[row].append(piece))
    rows = [tokenizer(text).input_ids for text in texts]
    for step in range(max(map(len, rows))):
        for row, tokens in enumerate(rows):
            if step < len(tokens):
                stream(row, tokens[step])
    return pieces


def test_a_character_is_held_back_until_all_its_bytes_are_there():
    # The tiny tokenizer spells what it does not know in bytes: é takes two, 海 three.
    assert heard("aé海b")[0] == ["a", "é", "海", "b"]


def test_each_row_hears_its_own_text():
    pieces = heard("what is the sea", "go on")
    assert {row: "".join(said) for row, said in pieces.items()} == {
        0: "what is the sea",
        1: "go on",
    }
    assert len(pieces[0]) > 5


def test_special_tokens_are_not_spoken():
    assert "".join(heard("good<|im_end|> day")[0]) == "good day"
