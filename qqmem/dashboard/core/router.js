/** Where one is, in the part of the address behind `#`: `#/memories/12?q=coffee` is {view, id, query}. */

import { store } from "./store.js";

export const VIEWS = ["live", "conversations", "memories", "training", "system"];

/**
 * @param {string} hash
 * @returns {{view: string, id: string, query: URLSearchParams}} an unknown view is the first one
 */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return {
    view: VIEWS.includes(view) ? view : VIEWS[0],
    id: rest.map(decoded).join("/"),
    query: new URLSearchParams(query),
  };
}

/** The address of a view. Empty values of the query are left out. */
export function link(view, id = "", query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const search = new URLSearchParams(given).toString();
  return `#/${view}${id === "" ? "" : `/${encodeURIComponent(id)}`}${search && `?${search}`}`;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The route of this page, as a store. */
export function routes() {
  const found = store(parse(location.hash), queueMicrotask);
  addEventListener("hashchange", () => found.set(parse(location.hash)));
  return found;
}
