"""Judges by the name that a person gives them."""

from __future__ import annotations

from collections.abc import Callable

from keel.engines import Engine, open_engine
from keel.errors import UsageError
from keel.judge.channel import ChannelGrader
from keel.judge.clusters import ClusterGrader, Embed, parse_clusters
from keel.judge.endpoint import EndpointGrader
from keel.judge.heuristic import HeuristicGrader
from keel.judge.labels import LabelGrader
from keel.settings import EndpointLimits
from keel.types import Grader

KNOWN = "heuristic, self, channel, clusters, local:MODEL, channel:MODEL or openai:MODEL"


def open_grader(
    spec: str,
    *,
    url: str | None = None,
    engine: Engine | None = None,
    open_engine: Callable[[str], Engine] = open_engine,
    limits: EndpointLimits | None = None,
    load_embedder: Callable[[], Embed] | None = None,
) -> Grader:
    """The judge that a spec names.

    heuristic       cues in the words; needs no model
    self            the model behind `engine`, by the probabilities of the labels
    local:MODEL     another model, in the same way
    channel         the model behind `engine`, by which label explains the answer best; better than
                    `self` for small models
    channel:MODEL   another model, in that way
    clusters[:N]    no judge: answers sorted into N kinds by the embeddings of `load_embedder`
    openai:MODEL    a model behind the OpenAI-compatible address `url`, within the `limits`

    Raises UsageError for any other, and for an address where none is asked.
    """
    kind, _, model = spec.partition(":")
    clusters = parse_clusters(spec)
    if clusters is None and not _is_known(kind, model, spec):
        raise UsageError(f"judge is {spec!r}, expected {KNOWN}")
    if kind == "openai":
        return EndpointGrader(model, url, limits=limits or EndpointLimits())
    if url is not None or limits is not None:
        raise UsageError(f"the judge {spec!r} has no address and no limits; openai:MODEL has")
    if clusters is not None:
        return _sorting(spec, clusters, load_embedder)
    if kind == "heuristic":
        return HeuristicGrader()
    judging = open_engine(model) if model else _own(spec, engine)
    return ChannelGrader(judging) if kind == "channel" else LabelGrader(judging)


def _is_known(kind: str, model: str, spec: str) -> bool:
    if model:
        return kind in ("local", "channel", "openai")
    return spec in ("heuristic", "self", "channel")


def _sorting(spec: str, clusters: int, load: Callable[[], Embed] | None) -> Grader:
    if load is None:
        raise UsageError(
            f"the judge {spec!r} sorts the answers of an evaluation, keel evaluate; take another"
        )
    return ClusterGrader(load(), clusters=clusters)


def _own(spec: str, engine: Engine | None) -> Engine:
    if engine is None:
        raise UsageError(
            f"the judge {spec!r} is the run's own model, which is not loaded here; name one, "
            "e.g. local:MODEL"
        )
    return engine
