"""How the report's page looks: its style sheet, and plots as SVG that take their colours from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _BOTTOM, _TOP = 40, 24, 10
"""Of a plot, in units that are pixels on a phone."""
_DECADES = 1e4
_POINTS = 120


def curves(series: Mapping[str, Points], step: str, title: str) -> str:
    """Lines over steps; the losses in powers of ten if they span much, then no further down than four of them."""
    values = [y for points in series.values() for _, y in points]
    top, low = max(values), min(values)
    is_log = top > 0 and low < top / 30
    bottom = max(low, top / _DECADES) if is_log else min(0.0, low)
    ticks = _powers(bottom, top) if is_log else _round(bottom, top)
    first, last = (pick(x for points in series.values() for x, _ in points) for pick in (min, max))

    def at(value: float, start: float, end: float, low: float, high: float) -> float:
        return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)

    def across(x: float) -> float:
        return at(x, _LEFT, _WIDTH - 8, first, last)

    def up(y: float) -> float:
        scaled = [math.log10(max(each, bottom)) if is_log else each for each in (y, bottom, top)]
        return at(scaled[0], _HEIGHT - _BOTTOM, _TOP, *scaled[1:])

    drawn = [
        f'<path class="grid" d="M{_LEFT} {up(y):.1f}H{_WIDTH - 8}"/>{_text(_LEFT - 5, up(y) + 3.5, f"{y:g}", "end")}'
        for y in ticks
    ]
    for name, points in series.items():
        if len(points) == 1:
            x, y = points[0]
            drawn.append(f'<circle class="{name}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5"/>')
        else:
            path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in _thinned(points))
            drawn.append(f'<path class="{name}" d="M{path}"/>')
    for anchor, x in (("start", first), ("end", last)) if last > first else (("middle", first),):
        drawn.append(_text(across(x), _HEIGHT - 6, f"{x:.0f}", anchor))
    if last > first:
        drawn.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, step, "middle"))
    return _svg("".join(drawn), title)


def bars(counts: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> str:
    """Bars side by side, a group for each label, with their counts."""
    group = (_WIDTH - 8) / len(labels)
    width = group * 0.8 / len(counts)
    top = max(count for each in counts for count in each)
    height = _HEIGHT - _BOTTOM - _TOP - 8
    drawn = []
    for n, label in enumerate(labels):
        drawn.append(_text(4 + group * (n + 0.5), _HEIGHT - 6, label, "middle"))
        for series, each in enumerate(counts):
            if not each[n]:
                continue
            x, tall = 4 + group * (n + 0.1) + width * series, height * each[n] / top
            y = _HEIGHT - _BOTTOM - tall
            size = f'width="{width - 1:.1f}" height="{tall:.1f}"'
            drawn.append(f'<rect class="s{series}" x="{x:.1f}" y="{y:.1f}" {size}/>')
            drawn.append(_text(x + (width - 1) / 2, y - 3, str(each[n]), "middle"))
    drawn.append(f'<path class="grid" d="M0 {_HEIGHT - _BOTTOM}H{_WIDTH}"/>')
    return _svg("".join(drawn), title)


def _thinned(points: Points) -> Points:
    """Means of neighbours, so that no more are left than a plot can show."""
    size = math.ceil(len(points) / _POINTS)
    parts = [points[n : n + size] for n in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _svg(content: str, title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(title)}</title>{content}</svg>'


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _powers(low: float, high: float) -> list[float]:
    return [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _round(low: float, high: float) -> list[float]:
    """Some four round numbers in a range."""
    size = 10 ** math.floor(math.log10((high - low or 1) / 4))
    step = next(size * n for n in (1, 2, 5, 10) if size * n * 4 >= (high - low or 1))
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


STYLE = """
:root{--page:#f7f7f5;--card:#fff;--ink:#1d1d1b;--soft:#6b6a66;--line:#e3e2de;--good:#15803d;--bad:#c22f2f;
--query:#2a78d6;--open:#1baf7a;--text:#d98e00;--reply:#008300;--chat:#4a3aa7;--keep:#e34948;--quiet:#d9639a;--before:#b4b2ab}
@media (prefers-color-scheme:dark){:root{--page:#161615;--card:#1f1f1d;--ink:#ecebe6;--soft:#a09e97;--line:#383834;
--good:#4ade80;--bad:#f87171;--query:#3987e5;--open:#199e70;--text:#c98500;--reply:#4fb04f;--chat:#9085e9;--keep:#e66767;
--quiet:#d55181;--before:#66645e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;
display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem}
h1,section{grid-column:1/-1;min-width:0}h1{margin:0;font-size:1.5rem}.half{grid-column:auto}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
h2{margin:0 0 .5rem;font-size:1rem}h2 b{color:var(--soft);font-weight:500}
.verdict{border-left:.35rem solid var(--good)}.verdict h2{font-size:1.15rem;color:var(--good)}
.bad{border-left-color:var(--bad)}.bad h2{color:var(--bad)}.verdict ul{margin:0 0 .75rem;padding-left:1.2rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem 1rem;margin:0}dt,.note{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}.note{margin:.4rem 0;font-size:.85rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:500}thead th,td:last-child{color:var(--soft)}
th:first-child{text-align:left;padding-left:0;white-space:normal}
.fault{color:var(--bad);font-weight:600}
svg{display:block;width:100%;height:auto}svg text{font-size:10.5px;fill:var(--soft)}
path{fill:none;stroke:currentColor;stroke-width:1.6;stroke-linejoin:round}rect,circle{fill:currentColor}
path.grid{color:var(--line);stroke-width:1}
.query,.s1{color:var(--query)}.open,.s3{color:var(--open)}.text,.s2{color:var(--text)}.reply,.s4{color:var(--reply)}
.chat{color:var(--chat)}.keep{color:var(--keep)}.quiet{color:var(--quiet)}.s0{color:var(--before)}
.keys{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin:.5rem 0 0;padding:0;font-size:.85rem}
.keys b{font-weight:500;color:var(--soft)}
.keys i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.35rem;background:currentColor}
.squares{display:flex;flex-wrap:wrap;gap:3px}
.squares i{width:13px;height:13px;border-radius:3px;border:1.5px solid var(--bad)}
.squares .yes{background:var(--good);border-color:var(--good)}
@media (max-width:30rem){body{padding:1rem .6rem 2rem;font-size:14px}section{padding:.8rem}
tr{display:flex;flex-wrap:wrap}th,td{flex:1;padding:.25rem 0}thead th:first-child{display:none}
tbody th{flex:1 0 100%;border:0;padding-bottom:0}}
"""
