"""The lexical lane: which memories have the words of a text. BM25 by SQLite's FTS5.

Beside its words, a memory's scope is in the index as words of their own, so that a search costs what may be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import Integer, column, func, insert, literal_column, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.memory.scope import Scope, View
from qqmem.memory.store_rows import searchable, visible, words_table
from qqmem.memory.tables import FTS, MemoryRow

_MOST_WORDS = 256
"""Different words of a query that are looked at."""
_MOST_ROWS = 5_000
"""The rarest words are searched for until so many memories have them: it is these that decide, and cost least."""

_vocabulary = table(f"{FTS}_vocab", column("term"), column("doc", Integer))


@dataclass(frozen=True, slots=True)
class Match:
    """A memory that has words of the query. score: BM25, higher is better."""

    id: int
    score: float


async def enter_words(session: AsyncSession, found: Iterable[tuple[MemoryRow, str]]) -> None:
    """Let memories be found by their words."""
    rows = [{"rowid": row.id, "places": " ".join(_places(row.scope)), "words": words} for row, words in found]
    if rows:
        await session.execute(insert(words_table), rows)


async def lexical(session: AsyncSession, words: Sequence[str], view: View, k: int) -> list[Match]:
    """The k best of what is searchable and visible there."""
    asked = _asked(await _rarest(session, words), view)
    if not asked:
        return []
    score = func.bm25(literal_column(FTS), 0.0, 1.0).label("score")
    best = select(words_table.c.rowid.label("id"), score).where(text(f"{FTS} MATCH :asked"))
    best_k = best.order_by(score, words_table.c.rowid).limit(k).subquery()
    # Looked up by id only: the planner would begin with everything that is visible.
    query = select(best_k).join(MemoryRow, MemoryRow.id == best_k.c.id).where(searchable(), visible(view))
    found = (await session.execute(query.order_by(best_k.c.score, best_k.c.id), {"asked": asked})).all()
    return [Match(id, -score) for id, score in found]


async def _rarest(session: AsyncSession, words: Sequence[str]) -> list[str]:
    """Those words that are searched for."""
    looked_at = list(dict.fromkeys(words))[:_MOST_WORDS]
    known = select(_vocabulary).where(_vocabulary.c.term.in_(looked_at)).order_by(_vocabulary.c.doc)
    found = (await session.execute(known)).all()
    before = accumulate((row.doc for row in found), initial=0)
    return [row.term for row, num in zip(found, before, strict=False) if num < _MOST_ROWS]


def _asked(words: Sequence[str], view: View) -> str:
    """The query in FTS5's language; empty if nothing can be found."""
    places = list(_places_of(view))
    if not words or not (places or view.everything):
        return ""
    return f"words : ({_any(words)})" + (f" AND places : ({_any(places)})" if places else "")


def _any(words: Iterable[str]) -> str:
    # Words are letters and digits only; the quotes keep OR, AND and NOT from being operators.
    return " OR ".join(f'"{word}"' for word in words)


def _places(scope: str) -> list[str]:
    """Words for a scope, the first of them for all that it needs. Ids in hex: an index of words knows no capitals."""
    of = Scope.parse(scope)
    owner, group = (id.encode().hex() for id in (of.owner, of.group))
    return [f"of{owner}in{group}", f"of{owner}", f"in{group}"] if of.kind == "member" else [f"{of.kind}{owner}{group}"]


def _places_of(view: View) -> Iterable[str]:
    if view.everything:
        return
    for scope in sorted(view.scopes):
        yield _places(scope)[0]
    if view.owner is not None:
        yield f"of{view.owner.encode().hex()}"
    if view.group is not None:
        yield f"in{view.group.encode().hex()}"
