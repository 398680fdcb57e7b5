"""Seeds and hashes of texts, by SHA-256: the same parts give the same draws on every machine.

Runs in progress are resumed by them, so the bytes that are hashed may never change.
"""

from __future__ import annotations

import hashlib


def seed_of(*parts: object, separator: str = ":", bits: int = 56) -> int:
    """An integer seed below 2^bits (at most 64) from the text of the parts.

    Parts that differ only in where the separator stands give the same seed. torch takes seeds
    below 2^63. `separator` and `bits` differ between callers because runs have been made so.

    >>> seed_of(7, 3), seed_of(7, "turn 3", separator="/", bits=63)
    (4816069768302546, 3977730901335215502)
    """
    return int.from_bytes(_digest(separator.join(map(str, parts)))[:8], "big") >> (64 - bits)


def shuffle_key(seed: int, name: str) -> bytes:
    """A sort key that puts names into random order: a name's rank depends on no other name.

    >>> sorted("abcdef", key=lambda name: shuffle_key(7, name))
    ['c', 'e', 'a', 'f', 'd', 'b']
    """
    return _digest(f"{seed}:{name}")


def text_hash(text: str, digits: int = 64) -> str:
    """The SHA-256 of a text, or its first hexadecimal digits; of half a surrogate pair, too.

    >>> text_hash("keel", 12), text_hash("\\ud800", 6)
    ('d6dba7e8a54d', '91a681')
    """
    return _digest(text).hex()[:digits]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
