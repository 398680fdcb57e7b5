"""Opens the embedder of a study's messages: a model on this machine, or one behind an address."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from keel.endpoint import Endpoint, EndpointClient, Spending, embed_at_endpoint
from keel.errors import MissingExtraError
from keel.prompts import Embed, load_embedder
from keel.settings import DriftStudySettings
from keel.statistics import Floats
from keel.store import StudyFolder


def embedder_of(
    settings: DriftStudySettings, kept: StudyFolder, spending: Spending
) -> Embed | None:
    """The embedder of messages; None where it is switched off, or not installed and none was named.

    Opened before anything is answered: what would stop it shows before hours of answering. What an
    endpoint embeds is kept, and not paid for again.
    """
    name = settings.embed
    if name == "none":
        return None
    if name.startswith("openai:"):
        endpoint = Endpoint.of(name.removeprefix("openai:"), settings.embed_url)
        client = EndpointClient(endpoint, settings.limits, spending)
        client.check()
        return partial(_embedded_once, client, kept)
    try:
        return load_embedder("" if name == "minilm" else name)
    except MissingExtraError:
        if name:
            raise
        return None


def _embedded_once(client: EndpointClient, kept: StudyFolder, texts: Sequence[str]) -> Floats:
    """Embeddings of texts, computed or read from what is kept.

    Only those that are not kept are asked for, and each request's are kept as they come.
    """
    name = f"{client.endpoint.model}@{client.endpoint.host}"
    known = kept.embeddings(name)
    new = [text for text in dict.fromkeys(texts) if text not in known]

    def keep(batch: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        known.update(zip(batch, map(torch.tensor, rows), strict=True))
        kept.save_embeddings(name, known)

    if new:
        embed_at_endpoint(client, new, keep)
    rows_ND: Floats = torch.stack([known[text] for text in texts]).double().numpy()
    return rows_ND
