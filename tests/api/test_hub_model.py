"""The hub against what was published, over random histories."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from hypothesis import given, settings, strategies as st

from qqmem.api.hub import MOST_WAITING, Watcher
from qqmem.chat import Event, Recalled, Token, TurnEnded, TurnStarted
from qqmem.memory.types import Change
from qqmem.records import Recall
from tests.api.dashboard import Dashboard, take_all
from tests.api.house import House

turns = st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("begin"), turns),
    st.tuples(st.just("write"), turns, st.sampled_from(["think", "memory", "reply"]), st.text(min_size=1, max_size=3)),
    st.tuples(st.just("write"), turns, st.just("reply"), st.text(min_size=1, max_size=3)),
    st.tuples(st.just("recall"), turns),
    st.tuples(st.just("end"), turns),
    st.tuples(st.just("tick")),
    st.tuples(st.just("many"), st.integers(1, 2 * MOST_WAITING)),
    st.tuples(st.just("come")),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.integers(0, 5)),
)


def told(frames: list[Any], turn: int) -> list[tuple[str, str]]:
    """What is told of a turn, text character by character."""
    found = []
    for frame in frames:
        if frame.get("turn") == turn:
            if frame["type"] == "token":
                found += [(frame["channel"], char) for char in frame["text"]]
            else:
                found.append((frame["type"], frame.get("cue", "")))
    return found


class Truth:
    """What was published, turn by turn, and what is written of those that have not ended."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.open: dict[int, dict[str, str]] = {}
        self._ids: dict[int, int] = {}
        self._n: dict[int, int] = {}

    def events(self, step: tuple[Any, ...]) -> list[Event]:
        """What a step publishes. The same actor has one turn after another, each with a number of its own."""
        kind, actor = step[0], step[1]
        id = self._ids.get(actor)
        if kind == "begin" and id is None:
            id = self._ids[actor] = len(self._n) + 1
            self._n[id], self.open[id] = 0, {}
            self.frames.append({"type": "turn.start", "turn": id})
            return [TurnStarted(id, f"private:{actor}", (id,))]
        if id is None:
            return []
        match kind:
            case "write":
                _, _, channel, text = step
                self._n[id] += 1
                self.open[id][channel] = self.open[id].get(channel, "") + text
                self.frames.append({"type": "token", "turn": id, "channel": channel, "text": text})
                return [Token(id, channel, text, self._n[id])]
            case "recall":
                self.frames.append({"type": "recall", "turn": id, "cue": str(self._n[id])})
                return [Recalled(id, Recall(str(self._n[id]), "none", None))]
            case "end":
                del self._ids[actor], self.open[id]
                self.frames.append({"type": "turn.end", "turn": id})
                return [TurnEnded(id, f"private:{actor}", "cancelled")]
        return []


class Crowd:
    """Those who come and go and read now and then, and one who reads at every tick."""

    def __init__(self, house: House, stack: ExitStack) -> None:
        self.house = house
        self._stack = stack
        self.keen = stack.enter_context(house.hub.watch())
        self.dashboards = {self.keen: Dashboard()}
        self._leaving: dict[Watcher, ExitStack] = {}

    async def tick(self) -> None:
        self.house.tick()
        await take_all(self.keen, self.dashboards[self.keen])

    def come(self) -> None:
        entering = self._stack.enter_context(ExitStack())
        watcher = entering.enter_context(self.house.hub.watch())
        self._leaving[watcher], self.dashboards[watcher] = entering, Dashboard()

    async def read(self, which: int) -> None:
        if watcher := self._one(which):
            await take_all(watcher, self.dashboards[watcher])

    def leave(self, which: int) -> None:
        if watcher := self._one(which):
            self._leaving.pop(watcher).close()
            del self.dashboards[watcher]

    async def read_all(self) -> None:
        for watcher, dashboard in self.dashboards.items():
            await take_all(watcher, dashboard)

    def _one(self, which: int) -> Watcher | None:
        return list(self._leaving)[which % len(self._leaving)] if self._leaving else None


@settings(deadline=None)
@given(st.lists(steps, max_size=40))
async def test_whoever_watches_sees_what_happens_or_is_told_that_it_lags(script: list[tuple[Any, ...]]) -> None:
    """many: ticks with something in each, so that who does not read falls behind."""
    truth, ids = Truth(), 0
    with ExitStack() as stack:
        crowd = Crowd(House(), stack)
        await crowd.read_all()
        await crowd.tick()
        for step in [*script, ("tick",)]:
            match step:
                case ("tick" | "many", *times):
                    for _ in range(*times or (1,)):
                        ids += 1
                        crowd.house.hub.remembered(Change("added", (ids,)))
                        await crowd.tick()
                case ("come",):
                    crowd.come()
                case ("leave", which):
                    crowd.leave(which)
                case ("read", which):
                    await crowd.read(which)
                case _:
                    for event in truth.events(step):
                        crowd.house.hub.publish(event)
            assert all(len(watcher) <= MOST_WAITING for watcher in crowd.dashboards)
        await crowd.read_all()
        await crowd.tick()  # for those who have fallen behind, or have not begun
        await crowd.read_all()
        for dashboard in crowd.dashboards.values():
            assert dashboard.texts == truth.open
            names = [id for frame in dashboard.frames for id in frame.get("ids", ())]
            assert names == sorted(set(names)), "nothing twice, nothing out of order"
        keen = crowd.dashboards[crowd.keen]
        assert keen.missed == []
        for turn in {frame["turn"] for frame in truth.frames}:
            assert told(keen.frames, turn) == told(truth.frames, turn)
        assert [frame["ids"] for frame in keen.frames if "ids" in frame] == [[n + 1] for n in range(ids)]
