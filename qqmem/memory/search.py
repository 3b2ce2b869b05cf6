"""How strongly a memory answers a query: what each lane says, one score from all, and the floor. Pure but for encoders.

A cosine means nothing by itself: of some texts everything is near, and nothing is far in some spaces. So it is
normalised against a cohort of unrelated texts, as speaker verification does (S-norm: Kenny 2010, "Bayesian speaker
verification with heavy-tailed priors"; Matějka et al. 2017, "Analysis of score normalization in multilingual speaker
recognition"): its z-score among the query's cosines with the cohort's keys, and among the key's cosines with the
cohort's queries, averaged. Words count by the share of the query's information that the memory covers. The fused score
is a weighted sum (Bruch et al. 2023, arXiv:2210.11934, on why not ranks), and its floor is what the same sum reaches
with unrelated texts in one search of a hundred.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib import resources
from itertools import chain
from typing import Any

import numpy as np
import yaml

from qqmem.memory.embed import dots, encoded, unit
from qqmem.memory.types import Encoder, Hit, Lane, LaneScore, Memory, Space, Vectors
from qqmem.memory.words import RARE, Segmenter

DAY_ZERO: Mapping[Lane, float] = {"state": 0.0, "text": 1.0, "lexical": 3.0}
"""Weights before any training: all the words are worth up to 3 standard deviations of unrelated cosines."""

# The floor: the best of all unrelated memories reaches it in one search of a hundred.
_RARELY = 0.99

# A question by its mark, or by a word that asks; not "这几天", "没什么" and "什么都".
_ASKING = re.compile(r"(?:[?？]|吗)\W*$")
_WH = re.compile(
    r"(?<!没)(?<!没有)(?:谁|什么|怎么|怎样|哪|多少|多久|多大|多高|多远|为何|(?<![这那好前过十])几[个点号岁年月天时])(?!.{0,4}[都也])"
    r"|是不是|有没有|能不能|会不会|要不要|记不记得"
    r"|^\W*(?:what|who|whose|where|when|why|which|how|do|does|did|is|are|was|were|can|could|will|would|should)\b",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[。！!；;？?\n])|(?<=\.)\s")
_CLAUSES = re.compile(r"[，,、：:]")
_CONTENT = re.compile(r"[^\W_]")
_LEAST_CONTENT = 4  # letters
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Texts:
    """The calibration texts. No statement answers any of the queries."""

    statements: list[str]
    queries: list[str]

    @property
    def digest(self) -> str:
        """Other texts, other digest."""
        return hashlib.blake2b("\n".join([*self.statements, "", *self.queries]).encode(), digest_size=4).hexdigest()


def calibration_texts() -> Texts:
    """Those that come with the package."""
    text = resources.files("qqmem.memory").joinpath("calibration.yaml").read_text(encoding="utf-8")
    return Texts(**yaml.safe_load(text))


def space_id(encoder: Encoder, texts: Texts) -> str:
    """The space of an encoder under these calibration texts."""
    return f"{encoder.space}/{texts.digest}"


async def calibrate(encoder: Encoder, texts: Texts, centred: bool) -> Space:
    """The space of an encoder: encodes all the texts. Raises ModelError."""
    keys = await encoded(encoder, texts.statements, "keys")
    queries = await encoded(encoder, texts.queries, "queries")
    centre = keys.mean(axis=0) if centred else np.zeros(encoder.dim, np.float32)
    cohorts = unit(keys - centre), unit(queries - centre)
    space = Space(space_id(encoder, texts), encoder.dim, centre, *cohorts, floor=0.0)
    return replace(space, floor=floor(unrelated(space)))


def strengths(space: Space, query: Vectors, keys: Vectors) -> Vectors:
    """Normalised cosines, [n], of a query [dim] with keys [n, dim], both centred and unit."""
    cosines = dots(keys, query)
    of_query = dots(space.cohort_keys, query)
    of_keys = dots(keys, space.cohort_queries)
    return _mean(_z(cosines, of_query.mean(), of_query.std()), _z(cosines, of_keys.mean(axis=1), of_keys.std(axis=1)))


def unrelated(space: Space) -> Vectors:
    """Normalised cosines of the cohort's queries with its keys, [queries, keys]; no pair counts in its own cohort."""
    cosines = space.cohort_queries @ space.cohort_keys.T
    return _mean(_z(cosines, *_others(cosines, 1)), _z(cosines, *_others(cosines, 0)))


def floor(scores: Vectors) -> float:
    """The floor, given the scores [queries, keys] of unrelated pairs."""
    return float(np.quantile(scores.max(axis=1), _RARELY))


def better(*found: Sequence[Hit]) -> list[Hit]:
    """Hits of several searches for the same, each memory by the one that found it best; best first."""
    best: dict[int, Hit] = {}
    for hit in chain.from_iterable(found):
        if hit.memory.id not in best or hit.score > best[hit.memory.id].score:
            best[hit.memory.id] = hit
    return sorted(best.values(), key=_order)


class Lexicon:
    """How much of what a text asks other texts cover. Loads a dictionary at first use: call it in a thread."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def covered(self, query: str, texts: Sequence[str]) -> list[float]:
        """Of each text, the share of the query's information that its words hold, in [0, 1)."""
        asked = self._asked(query)
        return [_share(asked, set(self._segmenter.words(text))) for text in texts]

    def unrelated(self, texts: Texts) -> Vectors:
        """The shares of the calibration texts, [queries, keys]."""
        asked = [self._asked(query) for query in texts.queries]
        held = [set(self._segmenter.words(statement)) for statement in texts.statements]
        return np.array([[_share(words, have) for have in held] for words in asked], np.float32)

    def _asked(self, query: str) -> dict[str, float]:
        """Its words, and how much each tells."""
        return {word: self._segmenter.weight(word) for word in self._segmenter.words(query)}


class Fusion:
    """One score from several lanes, and its floor.

    unrelated: of each lane its strengths for the calibration texts, [queries, keys].
    """

    def __init__(self, weights: Mapping[Lane, float], unrelated: Mapping[Lane, Vectors]) -> None:
        self._weights = weights
        self._unrelated = dict(unrelated)

    def weigh(self, weights: Mapping[Lane, float]) -> None:
        """Other weights from now on."""
        self._weights = weights

    def learn(self, lane: Lane, unrelated: Vectors) -> None:
        """A lane that came later."""
        self._unrelated[lane] = unrelated

    def hits(self, memories: Iterable[Memory], found: Mapping[Lane, Mapping[int, tuple[float, float]]]) -> list[Hit]:
        """All memories, best first. found: of each lane that took part, by id, the raw score and the strength."""
        if not found:
            return []
        weights = self._of(found.keys())
        floor = self._floor(weights)
        ranks = {lane: _ranks(scores) for lane, scores in found.items()}
        hits = []
        for memory in memories:
            lanes = {
                lane: LaneScore(ranks[lane][memory.id], *scores[memory.id])
                for lane, scores in found.items()
                if memory.id in scores
            }
            score = sum(weights[lane] * lanes[lane].strength for lane in lanes)
            hits.append(Hit(memory, score, score - floor, lanes))
        return sorted(hits, key=_order)

    def _of(self, lanes: Collection[Lane]) -> dict[Lane, float]:
        """The weights of those lanes; equal ones if none of them has any."""
        weights = {lane: self._weights.get(lane, 0.0) for lane in lanes}
        return weights if any(weights.values()) else dict.fromkeys(lanes, 1.0)

    def _floor(self, weights: Mapping[Lane, float]) -> float:
        parts = np.array([weight * self._unrelated[lane] for lane, weight in weights.items()], np.float32)
        return floor(parts.sum(axis=0))


def _order(hit: Hit) -> tuple[float, int]:
    return -hit.score, -hit.memory.id


def can_answer(memory: Memory) -> bool:
    """False for somebody's words that only ask, or say nearly nothing: they are no answer to the same words."""
    if memory.kind != "message":
        return True
    said = (sentence for sentence in _SENTENCES.split(memory.text) if not _ASKING.search(sentence))
    told = (clause for sentence in said for clause in _CLAUSES.split(sentence) if not _WH.search(clause))
    return any(len(_CONTENT.findall(clause)) >= _LEAST_CONTENT for clause in told)


def _share(asked: Mapping[str, float], held: Set[str]) -> float:
    # As if one rare word more were asked and not held: else a single common word would be worth as much as a name.
    return sum(asked[word] for word in asked.keys() & held) / (sum(asked.values()) + RARE)


def _z(scores: Vectors, mean: Any, deviation: Any) -> Vectors:
    normalised: Vectors = ((scores - mean) / np.maximum(deviation, _TINY)).astype(np.float32)
    return normalised


def _mean(a: Vectors, b: Vectors) -> Vectors:
    return (a + b) / np.float32(2)


def _others(scores: Vectors, axis: int) -> tuple[Vectors, Vectors]:
    """Mean and standard deviation along an axis of what is left when each score is taken out in turn."""
    num = scores.shape[axis] - 1
    mean = (scores.sum(axis=axis, keepdims=True) - scores) / num
    square = (np.square(scores).sum(axis=axis, keepdims=True) - np.square(scores)) / num
    return mean, np.sqrt(np.maximum(square - np.square(mean), 0))


def _ranks(scores: Mapping[int, tuple[float, float]]) -> dict[int, int]:
    """From 1, by the raw score."""
    order = sorted(scores, key=lambda id: (-scores[id][0], -scores[id][1], id))
    return {id: rank for rank, id in enumerate(order, 1)}
