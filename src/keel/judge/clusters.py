"""Answers sorted by what they say, without a judge: clusters of their embeddings, named by words.

Says which answers are alike and how many there are of each kind under each arm; not what they are
worth. Knows no model: whoever makes embeddings is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keel.errors import TooFewSamplesError, UsageError
from keel.types import Case, Grader, Rubric, RubricLabel, Scoring, Suite, Verdict

Embed = Callable[[Sequence[str]], Any]
"""Texts -> one row of numbers each."""
Labels = NDArray[np.intp]

EMPTY = "empty"
"""Label of answers without words: they are in no cluster."""
CLUSTERS = 8

_FEWEST_EACH = 2
_REFITS, _KEPT = 5, 0.8
_STARTS = 10
_NAMED_BY = 3
_LEAST_STABLE = 0.5
_SHOWN = 160
"""Characters of a sample, on one line."""
_SCORED = 2000
"""Answers whose silhouette is measured: it takes the distances of all pairs."""
_WORD = r"(?<!['’])\b[^\W\d_]{3,}\b(?!['’])"


@dataclass(frozen=True)
class Clustering:
    """Answers sorted into clusters, and how far the sorting can be trusted."""

    names: tuple[str, ...]
    """One per cluster, by the words that set it off from the others; the largest cluster first."""
    samples: tuple[str, ...]
    """Of each cluster the answer nearest to its middle."""
    members: tuple[int, ...]
    """Each answer's cluster."""
    silhouette: float
    """Mean over answers, −1 to 1; about 0 where clusters run into each other."""
    stability: float
    """Adjusted Rand index with clusters found without a fifth of the answers; 1 is the same."""


class ClusterGrader(Grader):
    """A Grader whose labels are clusters of the very answers that it is given.

    It needs all answers of all arms at once, since clusters of a part are other clusters: earlier
    verdicts are not reused. The same cases get the same labels in whatever order they come. The
    rubric's instruction is not read.
    """

    needs_all = True

    def __init__(self, embed: Embed, *, clusters: int = CLUSTERS, seed: int = 0) -> None:
        if clusters < 2:
            raise UsageError(f"{clusters} clusters asked for, expected 2 or more")
        self.embed, self.clusters, self.seed = embed, clusters, seed
        self._clustering: Clustering | None = None

    @property
    def name(self) -> str:
        """`clusters` with their number and the seed."""
        return f"clusters-{self.clusters}-s{self.seed}"

    @property
    def clustering(self) -> Clustering:
        """The clusters of the cases last graded."""
        if self._clustering is None:
            raise UsageError("nothing has been graded yet; grade all cases first")
        return self._clustering

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case. Raises TooFewSamplesError for less than two answers a cluster."""
        said = {}
        for case in cases:  # the answer without the words that it was begun with
            answer = case.conversation.messages[-1].content
            said[case.id] = answer.removeprefix(case.fields.get("prefill", "")).strip()
        # Sorted, since k-means begins at answers drawn by their index.
        worded = sorted(id for id, text in said.items() if text)
        texts = [said[id] for id in worded]
        fewest, distinct = _FEWEST_EACH * self.clusters, len(set(texts))
        if distinct < fewest:
            raise TooFewSamplesError(
                f"{distinct} different answers for {self.clusters} clusters, expected {fewest} or "
                f"more; answer more items, or ask for fewer: clusters:{max(2, distinct // 2)}"
            )
        self._clustering = cluster(texts, self.embed, clusters=self.clusters, seed=self.seed)
        clusters = dict(zip(worded, self._clustering.members, strict=True))
        for case in cases:
            label = self._clustering.names[clusters[case.id]] if case.id in clusters else EMPTY
            yield Verdict(case.id, label)

    def scoring(self, suite: Suite, rubric: Rubric) -> Scoring:
        """The clusters as labels; the largest is counted, in place of the suite's labels."""
        clustering = self.clustering
        names, stability = clustering.names, clustering.stability
        labels = [
            RubricLabel(name, f"Nearest to: {sample}")
            for name, sample in zip(names, clustering.samples, strict=True)
        ]
        counting = replace(
            suite,
            measure=f"answers in the largest cluster, {names[0]}",
            counted=(names[0],),
            nonsense=EMPTY,
        )
        facts = {
            "clusters": str(len(names)),
            "clusters' silhouette": f"{clustering.silhouette:.2f}",
            "clusters' stability": f"{stability:.2f}",
        }
        unstable = (
            f"with a fifth of the answers left out, the clusters come out otherwise (adjusted Rand "
            f"index {stability:.2f}, 1 is the same): read shifts between them with care"
        )
        return Scoring(
            counting,
            Rubric(
                "clusters",
                1,
                "Which of these is it most like?",
                (*labels, RubricLabel(EMPTY, "No words.")),
            ),
            self.name,
            facts,
            (unstable,) if stability < _LEAST_STABLE else (),
        )


def cluster(texts: Sequence[str], embed: Embed, *, clusters: int, seed: int = 0) -> Clustering:
    """K-means over the texts' unit embeddings; the same texts in the same order give the same."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    rows_ND = np.asarray(embed(texts), np.float64)
    rows_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    fitted = KMeans(clusters, n_init=_STARTS, random_state=seed).fit(rows_ND)
    sizes_K = np.bincount(fitted.labels_, minlength=clusters)
    order_K = np.argsort(-sizes_K, kind="stable")  # the largest cluster first
    labels_N, middles_KD = np.argsort(order_K)[fitted.labels_], fitted.cluster_centers_[order_K]

    chance = np.random.default_rng(seed)
    kept = max(clusters, round(_KEPT * len(texts)))
    agreements = []
    for refit in range(1, _REFITS + 1):
        part = chance.permutation(len(texts))[:kept]
        anew = KMeans(clusters, n_init=_STARTS, random_state=seed + refit).fit(rows_ND[part])
        agreements.append(adjusted_rand_score(labels_N, anew.predict(rows_ND)))

    measured = min(len(texts), _SCORED)
    silhouette = silhouette_score(rows_ND, labels_N, sample_size=measured, random_state=seed)
    nearest_K = np.argmax(rows_ND @ middles_KD.T, axis=0)
    return Clustering(
        names=name_clusters(texts, labels_N, clusters),
        samples=tuple(" ".join(texts[n].split())[:_SHOWN] for n in nearest_K),
        members=tuple(labels_N.tolist()),
        silhouette=float(silhouette),
        stability=float(np.mean(agreements)),
    )


def name_clusters(texts: Sequence[str], labels_N: Labels, clusters: int) -> tuple[str, ...]:
    """Names of so many clusters, made of the words of each with the highest c-TF-IDF.

    Grootendorst 2022, arXiv:2203.05794. A word counts once per answer, since a small model may say
    one word fifty times.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        binary=True, stop_words="english", token_pattern=_WORD, strip_accents=None
    )
    words_K = [""] * clusters
    split = counter.build_analyzer()
    if any(split(text) for text in texts):
        seen_NW = counter.fit_transform(texts)
        counts_KW = np.stack(
            [np.asarray(seen_NW[labels_N == k].sum(0)).ravel() for k in range(clusters)]
        )
        shares_KW = counts_KW / np.maximum(counts_KW.sum(1, keepdims=True), 1)
        mean_words = counts_KW.sum() / clusters
        scores_KW = shares_KW * np.log1p(mean_words / counts_KW.sum(0))
        words = counter.get_feature_names_out()
        best_KN = np.argsort(-scores_KW, axis=1, kind="stable")[:, :_NAMED_BY]
        words_K = [
            "-".join(str(words[w]) for w in best_N if scores_KW[k, w] > 0)
            for k, best_N in enumerate(best_KN)
        ]
    names: dict[str, None] = {}
    for number, joined in enumerate(words_K, start=1):
        name = joined or f"cluster-{number}"
        names[f"{name}-{number}" if name in names or name == EMPTY else name] = None
    return tuple(names)
