/** The geometry of the map of memories: from the plane of the vectors to the page and back. */

/**
 * @param {{width: number, height: number}} size pixels of the page
 * @param {{scale: number, x: number, y: number}} view scale 1 shows all of -1..1; x and y are the middle of the view
 */
export function projection({ width, height }, { scale, x, y }) {
  const unit = (Math.min(width, height) / 2 - 24) * scale;
  return {
    to: (point) => [width / 2 + (point.x - x) * unit, height / 2 - (point.y - y) * unit],
    from: (left, top) => ({ x: (left - width / 2) / unit + x, y: (height / 2 - top) / unit + y }),
    unit,
  };
}

/**
 * The point nearest to a place of the page, if it is within reach.
 * @param {{x: number, y: number}[]} points
 * @returns {number} its index; -1 if none is
 */
export function nearest(points, { to }, left, top, reach = 14) {
  let [found, least] = [-1, reach * reach];
  points.forEach((point, at) => {
    const [x, y] = to(point);
    const away = (x - left) ** 2 + (y - top) ** 2;
    if (away < least) [found, least] = [at, away];
  });
  return found;
}

/**
 * The nearest point in a direction, for those who go by the keyboard.
 * @param {{x: number, y: number}[]} points
 * @param {number} from an index
 * @param {"ArrowLeft" | "ArrowRight" | "ArrowUp" | "ArrowDown"} key
 * @returns {number} an index; `from` if there is none that way
 */
export function step(points, from, key) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
  const here = points[from];
  let [found, least] = [from, Infinity];
  points.forEach((point, at) => {
    const along = (point.x - here.x) * dx + (point.y - here.y) * dy;
    const aside = Math.abs((point.x - here.x) * dy) + Math.abs((point.y - here.y) * dx);
    const cost = along + 2 * aside;
    if (at !== from && along > 0 && cost < least) [found, least] = [at, cost];
  });
  return found;
}

/** View after zooming by a factor at a place of the plane, which stays where it is. */
export function zoomed(view, factor, place) {
  const scale = Math.min(40, Math.max(1, view.scale * factor));
  const share = view.scale / scale;
  return { scale, x: place.x + (view.x - place.x) * share, y: place.y + (view.y - place.y) * share };
}
