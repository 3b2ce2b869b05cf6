/** The map: memories whose vectors are alike lie close together. */

import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { html, useEffect, useMemo, useRef, useState } from "../core/html.js";
import { nearest, projection, step, zoomed } from "../core/map.js";
import { useFetched } from "../core/pages.js";
import { useStore } from "../core/store.js";
import { oneLine, visible } from "../core/text.js";
import { Button, Empty, Fault, Loading, scopeName } from "../parts/basics.js";

const MOST = 2000;
const SHADES = ["--hue-1", "--hue-2", "--hue-3", "--hue-4", "--hue-5", "--hue-6"];
const OTHERS = "--ink-3";
const ZOOM = 1.4;
const WHOLE = { scale: 1, x: 0, y: 0 };

/** @param {{open: number, to: Function}} props open: the memory that is shown beside the map */
export function MemoryMap({ open, to }) {
  const { api } = useApp();
  const t = usePhrases();
  const { value, problem } = useFetched(() => api.get("/api/memories/map", { limit: MOST }), []);
  const { value: counts } = useFetched(() => api.get("/api/memories/counts"), []);
  const [by, setBy] = useState("subject");
  const groups = useMemo(() => (value ? grouped(value.points, by) : []), [value, by]);
  const names = new Map((counts?.subjects ?? []).map(({ subject_id, name }) => [subject_id, name]));
  if (problem) return html`<${Fault} problem=${problem} />`;
  if (!value) return html`<${Loading} />`;
  if (!value.points.length) return html`<${Empty} title=${t("map.none")}>${t("map.none.hint")}<//>`;
  const said = value.lane ? t(`map.lane.${value.lane}`) : "";
  return html`<div class="map-head">
      <div class="segmented" role="group" aria-label=${t("map.by")}>${["subject", "state", "kind"].map((name) =>
        html`<button key=${name} type="button" aria-pressed=${by === name} onClick=${() => setBy(name)}>${t(`map.by.${name}`)}</button>`)}</div>
      <p class="hint">${t("map.what", { lane: said, count: value.points.length, total: value.total, share: formats(t).share((value.explained ?? []).reduce((sum, one) => sum + one, 0)) })}</p>
    </div>
    <${Canvas} points=${value.points} groups=${groups} open=${open} to=${to} />
    <ul class="map-legend">${groups.slice(0, SHADES.length + 1).map(({ name, shade, count }) => html`<li key=${name}>
      <i class=${`dot ${shade.slice(2)}`}></i><bdi>${groupName(t, by, name, names.get(name))}</bdi> <small>${count}</small></li>`)}</ul>`;
}

function groupName(t, by, name, label) {
  if (by === "kind") return t(`kind.${name}`);
  if (by === "state") return t(name === "decodable" ? "memories.decodable" : `state.${name}`);
  if (name === OTHERS) return t("map.others");
  return name === "" ? t("map.nobody") : oneLine(label || name);
}

/** Groups of points by size, each with a shade; those beyond the shades are one. */
function grouped(points, by) {
  const key = { subject: (point) => point.subject_id, kind: (point) => point.kind, state: (point) => (point.decodable ? "decodable" : point.state) }[by];
  const found = new Map();
  for (const point of points) found.set(key(point), [...(found.get(key(point)) ?? []), point]);
  const sorted = [...found].sort((a, b) => b[1].length - a[1].length);
  const shaded = sorted.slice(0, SHADES.length).map(([name, its], at) => ({ name, its, count: its.length, shade: SHADES[at] }));
  const rest = sorted.slice(SHADES.length).flatMap(([, its]) => its);
  return rest.length ? [...shaded, { name: OTHERS, its: rest, count: rest.length, shade: OTHERS }] : shaded;
}

function Canvas({ points, groups, open, to }) {
  const { theme } = useApp();
  const t = usePhrases();
  const shown = useStore(theme.name);
  const canvas = useRef(null);
  const drag = useRef(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [view, setView] = useState(WHOLE);
  const [hover, setHover] = useState(-1);
  const plane = projection(size, view);
  const tip = hover >= 0 ? plane.to(points[hover]) : null;

  useEffect(() => {
    const node = canvas.current.parentElement;
    const watcher = new ResizeObserver(() => setSize({ width: node.clientWidth, height: node.clientHeight }));
    watcher.observe(node);
    return () => watcher.disconnect();
  }, []);
  useEffect(() => {
    if (size.width) draw(canvas.current, size, plane, groups, points, { open, hover });
  }, [size, view, groups, hover, open, shown]);
  useEffect(() => {
    const node = canvas.current;
    const wheel = (event) => {
      event.preventDefault();
      const { left, top } = node.getBoundingClientRect();
      setView((was) => zoomed(was, Math.exp(-event.deltaY / 400), projection(size, was).from(event.clientX - left, event.clientY - top)));
    };
    node.addEventListener("wheel", wheel, { passive: false });
    return () => node.removeEventListener("wheel", wheel);
  }, [size]);

  const zoom = (factor) => setView((was) => zoomed(was, factor, hover >= 0 ? points[hover] : was));
  const place = (event) => {
    const { left, top } = canvas.current.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  function moved(event) {
    const held = drag.current;
    if (!held) return setHover(nearest(points, plane, ...place(event)));
    const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
    if (Math.abs(dx) + Math.abs(dy) > 4) held.isMoved = true;
    if (held.isMoved) setView({ ...held.view, x: held.view.x - dx / plane.unit, y: held.view.y + dy / plane.unit });
  }
  function pressed(event) {
    canvas.current.setPointerCapture(event.pointerId);
    drag.current = { x: event.clientX, y: event.clientY, view, isMoved: false };
  }
  function released(event) {
    const at = nearest(points, plane, ...place(event));
    if (!drag.current?.isMoved && at >= 0) location.hash = to({}, points[at].id);
    drag.current = null;
  }
  function typed(event) {
    if (event.key.startsWith("Arrow")) setHover(hover < 0 ? 0 : step(points, hover, event.key));
    else if (event.key === "Enter" && hover >= 0) location.hash = to({}, points[hover].id);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? ZOOM : 1 / ZOOM);
    else if (event.key === "0") setView(WHOLE);
    else return;
    event.preventDefault();
  }

  return html`<div class="map-box">
    <canvas id="memory-map" ref=${canvas} class="map" tabindex="0" role="application" aria-label=${t("map.label")} onPointerMove=${moved} onPointerDown=${pressed}
      onPointerUp=${released} onPointerLeave=${() => !drag.current && setHover(-1)} onKeyDown=${typed}></canvas>
    ${tip && html`<div class=${`map-tip${tip[0] > size.width / 2 ? " left" : ""}`} style=${{ left: `${tip[0]}px`, top: `${tip[1]}px` }} role="status">
      <p dir="auto">${visible(points[hover].text)}</p><small>${points[hover].id} · <bdi>${visible(scopeName(t, points[hover].scope))}</bdi></small></div>`}
    <div class="map-zoom" role="group" aria-label=${t("map.zoom")}>
      ${view !== WHOLE && html`<${Button} kind="small" action="map-reset" onClick=${() => setView(WHOLE)}>${t("map.reset")}<//>`}
      <${Button} icon="minus" label=${t("map.out")} action="map-out" kind="small" onClick=${() => zoom(1 / ZOOM)} />
      <${Button} icon="plus" label=${t("map.in")} action="map-in" kind="small" onClick=${() => zoom(ZOOM)} />
    </div>
  </div>`;
}

function draw(canvas, { width, height }, plane, groups, points, { open, hover }) {
  const dense = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * dense, height * dense];
  const [pen, style] = [canvas.getContext("2d"), getComputedStyle(canvas)];
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.scale(dense, dense);
  const radius = points.length > 600 ? 3 : 4.5;
  const disc = (point, size) => {
    pen.beginPath();
    pen.arc(...plane.to(point), size, 0, 2 * Math.PI);
  };
  for (const { its, shade } of [...groups].reverse()) {
    pen.fillStyle = colour(shade);
    pen.globalAlpha = 0.78;
    for (const point of its) {
      disc(point, radius);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  const chosen = [points.find(({ id }) => id === open), points[hover]].filter(Boolean);
  for (const point of chosen) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    disc(point, radius + 4);
    pen.stroke();
  }
}
