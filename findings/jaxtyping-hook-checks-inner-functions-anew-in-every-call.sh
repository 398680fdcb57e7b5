#!/usr/bin/env bash
# jaxtyping's import hook on a module whose function defines another one inside.
# Expected: the type checker is made once for each function of the source, as the hook works at import.
# Seen (jaxtyping 0.3.11, beartype 0.22.9): the inner function is decorated again in every call of the outer one, and each
# time two new checkers are compiled for it: 200 calls make 400, and take a thousand times as long as without the hook (the script asks for twenty).
# A sort with a named key function of its own, or a callback, costs a millisecond or two a call where tests run under it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jaxtyping==0.3.11 beartype==0.22.9 numpy==2.3.5
cd "$folder"
cat > inner.py <<'PYTHON'
def longest(words: list[str]) -> str:
    def length(word: str) -> int:
        return len(word)

    return max(words, key=length)
PYTHON
sed 's/longest/longest_plain/' inner.py > plain.py
cat > counting.py <<'PYTHON'
from beartype import beartype

made = []


def checked(function):
    made.append(function.__name__)
    return beartype(function)
PYTHON
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
from time import process_time

from jaxtyping import install_import_hook

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("jaxtyping", "beartype")))
import counting

with install_import_hook("inner", "counting.checked"):
    import inner
import plain

at_import = list(counting.made)
CALLS = 200


def seconds(function):
    start = process_time()
    for _ in range(CALLS):
        assert function(["a", "abc", "ab"]) == "abc"
    return process_time() - start


hooked = seconds(inner.longest)
times = hooked / seconds(plain.longest_plain)
inside = counting.made.count("length")
print(f"checkers made at import: {at_import}; of the inner function in {CALLS} calls: {inside}")
print(f"a call under the hook: {hooked / CALLS * 1e3:.2f} ms, {times:.0f} times a plain one")
if at_import != ["longest"] * 2 or inside != 2 * CALLS or times < 20:
    sys.exit("this has changed")
PYTHON
