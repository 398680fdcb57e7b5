"""Opens the embedder of a study's messages: a model on this machine, or one behind an address."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from keel.endpoint import Endpoint, EndpointClient, embed_at_endpoint
from keel.errors import MissingExtraError
from keel.prompts import Embed, load_embedder
from keel.settings import DriftStudySettings, EndpointLimits
from keel.statistics import Floats
from keel.store import StudyFolder


def embedder_of(settings: DriftStudySettings, kept: StudyFolder) -> Embed | None:
    """The embedder of messages; None where it is switched off, or not installed and none was named.

    Opened before anything is answered: what would stop it shows before hours of answering. What an
    endpoint embeds is kept, and not paid for again.
    """
    name = settings.embed
    if name == "none":
        return None
    if name.startswith("openai:"):
        endpoint = Endpoint.of(name.removeprefix("openai:"), settings.embed_url)
        EndpointClient(endpoint, settings.limits).check()
        return partial(_embedded_once, endpoint, settings.limits, kept)
    try:
        return load_embedder("" if name == "minilm" else name)
    except MissingExtraError:
        if name:
            raise
        return None


def _embedded_once(
    endpoint: Endpoint, limits: EndpointLimits, kept: StudyFolder, texts: Sequence[str]
) -> Floats:
    """Embeddings of texts, of which only those that are not kept are asked for."""
    name = f"{endpoint.model}@{endpoint.host}"
    known = kept.embeddings(name)
    new = [text for text in texts if text not in known]
    if new:
        rows = torch.from_numpy(embed_at_endpoint(endpoint, new, limits)).float()
        known |= dict(zip(new, rows, strict=True))
        kept.save_embeddings(name, known)
    rows_ND: Floats = torch.stack([known[text] for text in texts]).double().numpy()
    return rows_ND
