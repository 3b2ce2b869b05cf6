"""The report's page: all that was measured is on it, nothing on it can do harm, and what is missing is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from qqmem.train.report import page

BEFORE = {"recall_at_1": 0.25, "exact": 0.0, "perplexity": 10.0, "ranks": [1, 4, 2, 120]}
AFTER = {"recall_at_1": 0.75, "exact": 0.5, "perplexity": 10.1, "perplexity_rise": 0.01, "ranks": [1, 1, 1, 2]}
REPORT: dict[str, Any] = {
    "run": 3,
    "model": "tiny",
    "language": "en",
    "passed": True,
    "reason": "",
    "trigger": "model",
    "lanes": {"state": 2.0, "lexical": 3.0},
    "before": BEFORE,
    "after": AFTER,
    "compared": {"mse": {"recall_at_1": 0.5, "ranks": [1, 1, 3, 9]}},
    "ids": [11, 12, 13],
    "decodable": [11, 13],
    "thresholds": {"recall_at_1": 0.7, "perplexity_rise": 0.03},
    "faults": [],
    "stages": {"stage1": {"steps": 2, "seconds": 12.4, "tokens_s": 310.0}},
}
VOID = ("meta", "!doctype")


def step(n: int, stage: str = "stage1", **loss: float) -> dict[str, Any]:
    return {"stage": stage, "step": n, "steps": 9, "loss": {"total": 1.0, **loss}, "time": "2026-11-22T02:00:00+00:00"}


PROGRESS = [
    step(1, query=2.0, open=1.0),
    step(2, query=1.0, open=0.5),
    {"stage": "stage1", "done": True},
    step(1, "stage2", text=3.0, quiet=0.001),
    step(2, "stage2", text=1.5, quiet=0.002),
]


class Page(HTMLParser):
    """texts: of an element, by its name or name.class, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str]] = []
        self._open: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += given.items()
        if tag not in VOID:
            names = (tag, *(f"{tag}.{each}" for each in given.get("class", "").split()))
            self._open.append((tag, names))
            for name in names:
                self.texts.setdefault(name, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, names in self._open:
            for name in names:
                self.texts[name][-1] += data

    def rows(self) -> list[list[str]]:
        return [
            [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
            for row in re.findall(r"<tr>.*?</tr>", self.html)
        ]

    def plots(self) -> list[ET.Element]:
        return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.html)]


def drawn(report: Mapping[str, Any] = REPORT, progress: Any = PROGRESS, **changes: Any) -> Page:
    return Page(page({**report, **changes}, progress))


def test_the_page_has_all_that_was_measured() -> None:
    found = drawn()
    assert found.texts["h1"] == found.texts["title"][:1] == ["Training report 3"]
    assert [text.split(":")[0] for text in found.texts["h2"]] == [
        "Passed",
        "Measures",
        "Stage 1",
        "Stage 2",
        "Held-out questions",
        "Memories written exactly 2 / 3",
    ]
    assert found.rows() == [
        ["", "before", "after", "mse", "needed"],
        ["Memory found first", "25.0 %", "75.0 %", "50.0 %", "≥ 70.0 %"],
        ["Memories written exactly", "0.0 %", "50.0 %", "–", ""],
        ["Perplexity of ordinary turns", "10.00", "10.10", "–", ""],
        ["Rise of perplexity", "–", "1.0 %", "–", "≤ 3.0 %"],
    ]
    assert found.texts["dd"] == ["tiny", "when the model asks for it", "state 2 · words 3"]
    assert found.texts["p.note"] == ["2 steps · 12 s · 310 tokens/s", "Not: #12"]
    assert (len(found.texts["i.yes"]), len(found.texts["i.no"])) == (2, 1)
    assert [plot.get("role") for plot in found.plots()] == ["img"] * 3
    assert len(found.html) < 20_000


def test_it_is_one_file_that_runs_nothing() -> None:
    found = drawn()
    assert not re.search(r"<(script|link|img|iframe|object|use)\b|https?:|url\(|@import|\bsrc=|\bhref=", found.html)
    assert [name for name, _ in found.attributes if name.startswith("on") or name == "style"] == []
    assert "prefers-color-scheme:dark" in found.html


def test_in_chinese() -> None:
    found = drawn(language="zh")
    assert found.html.startswith('<!doctype html>\n<html lang="zh-CN">')
    assert found.texts["h2"][0] == "通过：训练后的模型可以上线"
    assert found.rows()[1][:2] == ["一次找对记忆", "25.0 %"]


def test_a_refusal_says_which_measure_failed() -> None:
    faults = [{"measure": "exact", "value": 0.4, "relation": "below", "bound": 0.5}]
    found = drawn(passed=False, reason="The gate refused it.", faults=faults)
    assert found.texts["h2"][0].startswith("Refused")
    assert found.texts["section.verdict"][0].count("Memories written exactly: 40.0 %, below 50.0 %") == 1
    assert found.texts["th.fault"] == ["Memories written exactly"]
    assert found.texts["td.fault"] == ["50.0 %"], "of what was measured after the training, not before"
    assert "The gate said so." in drawn(passed=False, reason="The gate said so.").texts["section.verdict"][0]


HOSTILE = "\"><script>alert(1)</script>&'<"


def test_no_text_can_become_markup() -> None:
    measures = {HOSTILE: 1.0, "ranks": [1]}
    found = drawn(
        run=HOSTILE,
        model=HOSTILE,
        passed=False,
        reason=HOSTILE,
        trigger=HOSTILE,
        lanes={HOSTILE: 1.0},
        before=measures,
        after=measures,
        compared={HOSTILE: measures},
        faults=[{"measure": HOSTILE, "value": 1.0, "relation": "below", "bound": 2.0}],
    )
    assert "<script" not in found.html
    assert {name for name, _ in found.attributes} <= {
        *("lang", "charset", "name", "content", "class", "scope", "title", "role", "d", "x", "y", "width", "height"),
        *("viewbox", "text-anchor", "cx", "cy", "r"),
    }
    assert found.texts["h1"] == [f"Training report {HOSTILE}"]
    assert [row[0] for row in found.rows()].count("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#x27;&lt;") == 1
    assert found.texts["dd"][:2] == [HOSTILE, HOSTILE]


@pytest.mark.parametrize("name", [name for name in REPORT if name not in ("passed", "language")])
def test_what_is_missing_is_left_out(name: str) -> None:
    whole, found = drawn(), drawn({key: value for key, value in REPORT.items() if key != name})
    assert len(found.html) < len(whole.html) or name in ("reason", "faults")
    assert found.texts["h2"][0].startswith("Passed")


def test_of_a_report_with_next_to_nothing() -> None:
    found = Page(page({"passed": False, "reason": "It broke.", "figures": {"exact": 0.75}}, []))
    assert found.texts["h2"] == ["没有通过：继续使用原来的模型"]
    assert found.texts["section.verdict"][0].endswith("It broke.")


def test_measures_that_are_no_numbers() -> None:
    odd: dict[str, Any] = {
        "recall_at_1": None,
        "exact": math.nan,
        "perplexity": math.inf,
        "by_kind": {"a": 1},
        "ranks": [],
        "fine": 2,
    }
    rows = drawn(before={}, after=odd, compared={}, thresholds={}).rows()
    assert [row[:2] for row in rows[1:]] == [["Memory found first", "–"], ["fine", "2"]]


def test_without_memories() -> None:
    found = drawn(ids=[], decodable=[])
    assert found.texts["h2"][-1] == "Memories written exactly 0 / 0"
    assert "i.no" not in found.texts


def test_many_memories_that_are_not_written() -> None:
    note = drawn(ids=list(range(1, 400)), decodable=[]).texts["p.note"][-1]
    assert (note.count("#"), note[-1]) == (60, "…")


def test_one_step_is_a_dot_for_each_part() -> None:
    found = drawn(progress=[step(7, query=2.0, chat=1.0)], before=None, after=None, compared={}).plots()
    assert [(each.get("class"), each.get("cx")) for each in found[0].iter("circle")] == [
        ("query", "196.0"),
        ("chat", "196.0"),
    ]
    assert "7" in [text.text for text in found[0].iter("text")]


@pytest.mark.parametrize("loss", [0.0, 1e-11, -0.5, 5.0])
def test_losses_that_do_not_change(loss: float) -> None:
    (plot,) = drawn(progress=[step(1, keep=loss), step(2, keep=loss)], before=None, after=None, compared={}).plots()
    assert all(0 <= y <= 200 for _, y in points(plot, "keep"))


def points(plot: ET.Element, name: str) -> Iterator[tuple[float, float]]:
    for path in plot.iter("path"):
        if path.get("class") == name:
            yield from ((float(x), float(y)) for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path.get("d", "")))


def ticks(plot: ET.Element) -> list[str]:
    return [
        text.text or "" for text in plot.iter("text") if text.get("text-anchor") == "end" and text.get("x") == "35.0"
    ]


def test_losses_that_span_much_are_drawn_in_powers_of_ten() -> None:
    near, far, gone = (
        drawn(progress=[step(1, text=4.0), step(2, text=low)], before=None, after=None, compared={}).plots()[0]
        for low in (1.0, 0.01, 1e-11)
    )
    assert ticks(near) == ["0", "1", "2", "3", "4"]
    (high,) = drawn(progress=[step(1, text=8.0), step(2, text=1.0)], before=None, after=None, compared={}).plots()
    assert ticks(high) == ["0", "2", "4", "6", "8"]
    assert ticks(far) == ["0.01", "0.1", "1"]
    assert ticks(gone) == ["0.001", "0.01", "0.1", "1"], "and no further down than anyone looks"
    for plot in (near, far, gone):
        (first, last) = points(plot, "text")
        assert first[0] < last[0]
        assert 0 <= first[1] < last[1] <= 200, "less is further down"


def test_a_step_that_was_told_twice_counts_once_and_thousands_fit() -> None:
    told = [step(n, query=1.0 / n) for n in range(1, 5001)]
    (plot,) = drawn(progress=[*told, step(2, query=0.5)], before=None, after=None, compared={}).plots()
    assert len(list(points(plot, "query"))) <= 120
    (twice,) = drawn(progress=[*told[:3], step(2, query=9.0)], before=None, after=None, compared={}).plots()
    assert [x for x, _ in points(twice, "query")] == [40, 196, 352]


def test_bars_count_every_question() -> None:
    (plot,) = drawn(progress=[], compared={}).plots()
    assert [bar.get("class") for bar in plot.iter("rect")] == ["s0", "s1", "s0", "s1", "s0", "s0"]
    said = [text.text for text in plot.iter("text")]
    assert said == ["1", "1", "3", "2", "1", "1", "3", "4", "1", "5", "–10", "–20", "–50", "–100", ">100", "1"]
