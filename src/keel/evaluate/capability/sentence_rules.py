"""nltk's rules for English sentences, which IFEval's scoring needs.

nltk keeps them apart from its code and downloads them. Where neither a download nor a package
brings them, rules of our own stand in: no learned ones, a list of abbreviations only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

RULES = "tokenizers/punkt_tab/english/"
OWN_RULES = Path(__file__).parent / "sentences"
AFFECTED = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
"""Kinds of IFEval's instructions that are scored by sentences or by words in them."""

_CARRIERS = (("llama_index", "core/_static/nltk_cache"),)
"""Packages that bring nltk's own rules along: `pip install --no-deps llama-index-core`."""


@contextmanager
def sentence_rules() -> Iterator[bool]:
    """nltk finds rules inside the context; True says that they are ours, not nltk's own."""
    import nltk

    with _searching(_carried()):
        if _are_there() or _are_downloaded():
            yield False
            return
    with _searching([str(OWN_RULES)]):
        nltk.data.find(RULES)
        yield True


@contextmanager
def rules_for(task: str) -> Iterator[None]:
    """Sentence rules for a task that needs them; for others nothing."""
    with sentence_rules() if _needs_rules(task) else nullcontext():
        yield


def missing_rules(task: str, docs: Iterable[Any]) -> Iterator[str]:
    """A warning where rules of ours score some instructions: which, and how many."""
    if not _needs_rules(task):
        return
    with sentence_rules() as are_ours:
        kinds = [kind for doc in docs for kind in doc["instruction_id_list"] if kind in AFFECTED]
    if are_ours and kinds:
        listed = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in sorted({*kinds}))
        yield (
            f"nltk's rules for sentences are not here, so simpler ones of Keel's scored {listed}; "
            "get nltk's with: python -m nltk.downloader punkt_tab"
        )


def _needs_rules(task: str) -> bool:
    return "ifeval" in task


def _carried() -> list[str]:
    """Folders of installed packages in which nltk's data lie."""
    specs = [(importlib.util.find_spec(package), inside) for package, inside in _CARRIERS]
    folders = [
        Path(folder) / inside
        for spec, inside in specs
        for folder in ((spec and spec.submodule_search_locations) or ())
    ]
    return [str(folder) for folder in folders if (folder / RULES).is_dir()]


@contextmanager
def _searching(folders: list[str]) -> Iterator[None]:
    """nltk looks in these folders too, after its own."""
    import nltk

    before = list(nltk.data.path)
    nltk.data.path.extend(folders)
    try:
        yield
    finally:
        nltk.data.path[:] = before


def _are_there() -> bool:
    """Whether nltk finds rules that are not ours: a context around this one may have put them."""
    import nltk

    try:
        rules = nltk.data.find(RULES)
    except LookupError:
        return False
    return not Path(str(rules)).is_relative_to(OWN_RULES)


def _are_downloaded() -> bool:
    """Fetch them as lm-eval would; False where there is no network."""
    import nltk

    return bool(nltk.download("punkt_tab", quiet=True)) and _are_there()
