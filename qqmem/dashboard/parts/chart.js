/** Curves, drawn by uPlot in the colours of the page. */

import { useApp } from "../core/app.js";
import { html, useEffect, useRef } from "../core/html.js";
import { useStore } from "../core/store.js";
import UPlot from "../vendor/uplot/uPlot.js";

/**
 * @param {object} props
 * @param {number[]} props.x
 * @param {{label: string, values: (number | null)[], shade: string}[]} props.series shade: a custom property of the page
 * @param {string} props.label what the curves are, for those who do not see them
 * @param {number} [props.height]
 * @param {number} [props.end] where the axis ends
 */
export function Chart({ x, series, label, height = 190, end }) {
  const { theme } = useApp();
  const shown = useStore(theme.name);
  const [box, plot] = [useRef(null), useRef(null)];
  const names = series.map((one) => one.label).join("\n");

  useEffect(() => {
    const node = box.current;
    plot.current = new UPlot(options(node, series, height, end), [x, ...series.map((one) => one.values)], node);
    const watcher = new ResizeObserver(() => node.clientWidth && plot.current.setSize({ width: node.clientWidth, height }));
    watcher.observe(node);
    return () => {
      watcher.disconnect();
      plot.current.destroy();
    };
  }, [shown, names, height, end]);
  useEffect(() => plot.current.setData([x, ...series.map((one) => one.values)]), [x]);

  return html`<div class="chart" ref=${box} role="img" aria-label=${label}></div>`;
}

function options(node, series, height, end) {
  const style = getComputedStyle(node);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--ink-3"), font: `11px ${style.fontFamily}`, ticks: { show: false },
    grid: { stroke: colour("--line"), width: 1 },
  };
  return {
    width: node.clientWidth || 400, height, padding: [8, 8, 0, 0], legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: false, range: (_, low, high) => [0, Math.max(end ?? 0, high ?? 1, 1)] } },
    axes: [{ ...axis, size: 26, grid: { show: false } }, { ...axis, size: 40 }],
    series: [{}, ...series.map((one, at) => ({
      label: one.label, stroke: colour(one.shade), width: at === 0 ? 2 : 1.25, points: { show: false }, spanGaps: true,
      dash: at > 1 ? [4, 3] : undefined,
    }))],
  };
}

/** A small curve of the last values, beside a figure. */
export function Spark({ values, width = 96, height = 24 }) {
  const most = Math.max(...values, 1);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(height - 1 - (value / most) * (height - 3)).toFixed(1)}`);
  return html`<svg class="spark" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} aria-hidden="true" focusable="false">
    ${points.length > 1 && html`<polyline points=${points.join(" ")} />`}
  </svg>`;
}
