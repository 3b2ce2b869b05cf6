"""The report of a run as one page for a browser: what the gate has measured, and how the losses fell.

Pure: from report.json and the lines of progress.jsonl to HTML that needs no script and no other file. It has the
numbers of memories and none of their texts, so that it may outlive what was forgotten. What is missing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, TypeGuard

from qqmem.train.report_look import STYLE, bars, curves
from qqmem.train.report_words import WORDS, Words

_PARTS = ("query", "ask", "open", "text", "reply", "chat", "keep", "quiet")
_BOUNDS = {
    "recall_at_1": ("≥", "recall_at_1"),
    "exact": ("≥", "exact"),
    "trigger_recall": ("≥", "trigger_recall"),
    "trigger_precision": ("≥", "trigger_precision"),
    "perplexity_rise": ("≤", "perplexity_rise"),
    "perplexity_rise_beside": ("≤", "perplexity_rise"),
}
_SHARES = {*_BOUNDS, "recall_at_5", "trigger_false"}
_RANKS = {(n - 1, n): str(n) for n in range(1, 6)} | {
    (5, 10): "–10",
    (10, 20): "–20",
    (20, 50): "–50",
    (50, 100): "–100",
    (100, math.inf): ">100",
}
"""(more than, at most) and what a bar of these ranks is called."""
_MOST_NAMED = 60


def page(report: Mapping[str, Any], progress: Iterable[Mapping[str, Any]]) -> str:
    """report: as in report.json. progress: the lines of progress.jsonl, in their order."""
    words = WORDS["en" if report.get("language") == "en" else "zh"]
    told = _told(progress)
    parts = [
        _head(report, words),
        _measures(report, words),
        *(_stage(stage, report.get("stages", {}).get(stage, {}), told.get(stage, {}), words) for stage in words.stages),
        _ranks(report, words),
        _decodable(report, words),
    ]
    title = escape(f"{words.title} {report.get('run', '')}".strip())
    return (
        f'<!doctype html>\n<html lang="{words.language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{chr(10).join(filter(None, parts))}\n</body></html>\n"
    )


# ---- sections --------------------------------------------------------------------------------------------------------


def _head(report: Mapping[str, Any], words: Words) -> str:
    """The verdict, and how it would serve."""
    faults = [
        words.faults[fault["relation"]].format(
            name=words.measures.get(fault["measure"], fault["measure"]),
            value=_figure(fault["measure"], fault["value"]),
            bound=_figure(fault["measure"], fault["bound"]),
        )
        for fault in report.get("faults", ())
    ] or [str(report.get("reason", ""))]
    verdict = words.passed if report.get("passed") else words.refused
    said = "" if report.get("passed") else "".join(f"<li>{escape(fault)}</li>" for fault in faults if fault)
    lanes = " · ".join(f"{words.lanes.get(name, name)} {weight:g}" for name, weight in report.get("lanes", {}).items())
    trigger = words.triggers.get(report.get("trigger", ""), report.get("trigger", ""))
    facts = ((words.model, report.get("model")), (words.trigger, trigger), (words.lanes_title, lanes))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(fact))}</dd>" for name, fact in facts if fact)
    return (
        f'<section class="verdict {"good" if report.get("passed") else "bad"}"><h2>{verdict}</h2>'
        f"{f'<ul>{said}</ul>' if said else ''}{f'<dl>{listed}</dl>' if listed else ''}</section>"
    )


def _measures(report: Mapping[str, Any], words: Words) -> str:
    """A table: measures down, before, after and what it is compared with across."""
    columns = _columns(report, words)
    found = [name for _, column in columns for name, value in column.items() if value is None or _is_number(value)]
    names = dict.fromkeys([*(name for name in words.measures if name in found), *found])
    if not names:
        return ""
    bounds, faults = report.get("thresholds", {}), {fault["measure"] for fault in report.get("faults", ())}
    rows, is_noted = [], False
    for name in names:
        sign, bound = _BOUNDS.get(name, ("", ""))
        needed = f"{sign} {_figure(name, bounds[bound])}" if bound in bounds else ""
        if needed and name.startswith("trigger"):
            needed, is_noted = f"{needed} *", True
        kind = ' class="fault"' if name in faults else ""
        label = escape(words.measures.get(name, name))
        cells = "".join(
            f"<td{kind if column is report.get('after') else ''}>{_figure(name, column.get(name))}</td>"
            for _, column in columns
        )
        rows.append(f'<tr><th scope="row"{kind}>{label}</th>{cells}<td>{needed}</td></tr>')
    labels = ("", *(label for label, _ in columns), words.needed)
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    note = f'<p class="note">* {words.trigger_note}</p>' if is_noted else ""
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return f"<section><h2>{words.measured}</h2>{table}{note}</section>"


def _stage(stage: str, summary: Mapping[str, Any], losses: Mapping[int, Mapping[str, Any]], words: Words) -> str:
    """How long a stage has taken, and its losses by parts."""
    series = {
        name: [(step, float(loss[name])) for step, loss in losses.items() if _is_number(loss.get(name))]
        for name in _PARTS
    }
    series = {name: points for name, points in series.items() if points}
    figures = [
        said.format(**{name: summary[name]}) for name, said in words.figures.items() if _is_number(summary.get(name))
    ]
    if not series and not figures:
        return ""
    keys = "".join(
        f'<li><i class="{name}"></i>{escape(words.parts[name])} <b>{points[-1][1]:.3g}</b></li>'
        for name, points in series.items()
    )
    title = f"{words.loss}: {', '.join(words.parts[name] for name in series)}"
    plot = f'{curves(series, words.step, title)}<ul class="keys">{keys}</ul>' if series else ""
    note = f'<p class="note">{escape(" · ".join(figures))}</p>' if figures else ""
    return f'<section class="half"><h2>{words.stages[stage]}</h2>{note}{plot}</section>'


def _ranks(report: Mapping[str, Any], words: Words) -> str:
    """Where the wanted memory was among all, for questions that no training has shown."""
    found = [(label, column["ranks"]) for label, column in _columns(report, words) if column.get("ranks")]
    if not found:
        return ""
    counts = [[sum(low < rank <= high for rank in ranks) for low, high in _RANKS] for _, ranks in found]
    shown = max(5, *(n + 1 for each in counts for n, count in enumerate(each) if count))
    keys = "".join(
        f'<li><i class="s{n}"></i>{escape(label)} <b>{len(ranks)}</b></li>' for n, (label, ranks) in enumerate(found)
    )
    plot = bars([each[:shown] for each in counts], list(_RANKS.values())[:shown], words.ranks)
    return f'<section class="half"><h2>{words.ranks}</h2>{plot}<ul class="keys">{keys}</ul></section>'


def _decodable(report: Mapping[str, Any], words: Words) -> str:
    """A square for each memory."""
    if "ids" not in report or "decodable" not in report:
        return ""
    ids, decodable = report["ids"], set(report["decodable"])
    squares = "".join(f'<i class="{"yes" if id in decodable else "no"}" title="#{id:d}"></i>' for id in ids)
    missing = [f"#{id:d}" for id in ids if id not in decodable]
    named = f"{' '.join(missing[:_MOST_NAMED])}{' …' if len(missing) > _MOST_NAMED else ''}"
    note = f'<p class="note">{words.missing}{named}</p>' if missing else ""
    count = f"{len(ids) - len(missing)} / {len(ids)}"
    grid = f'<div class="squares">{squares}</div>'
    return f'<section class="half"><h2>{words.decodable} <b>{count}</b></h2>{grid}{note}</section>'


def _columns(report: Mapping[str, Any], words: Words) -> list[tuple[str, Mapping[str, Any]]]:
    """Named columns of measures: before, after, and each recipe that it was compared with."""
    own = [(label, report[key]) for key, label in words.columns.items() if report.get(key)]
    return [*own, *report.get("compared", {}).items()]


# ---- figures ---------------------------------------------------------------------------------------------------------


def _told(progress: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Losses by stage and step. A step that was told twice, by a program that went on, counts once."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in progress:
        if isinstance(line.get("loss"), Mapping) and isinstance(line.get("step"), int):
            found.setdefault(str(line.get("stage")), {})[line["step"]] = line["loss"]
    return found


def _figure(name: str, value: object) -> str:
    """A measure as it is read: a share, but for perplexities and what nobody here knows."""
    if not _is_number(value):
        return "–"
    if name in ("perplexity", "perplexity_beside"):
        return f"{value:.2f}"
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.4g}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
