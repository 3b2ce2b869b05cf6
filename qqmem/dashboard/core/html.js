/** What views are written with: Preact's elements as tagged templates, its hooks, and components that skip equal props. */

import htm from "../vendor/htm/htm.js";
import { Component, h } from "../vendor/preact/preact.js";

export { Component, Fragment, createContext, h, render } from "../vendor/preact/preact.js";
export {
  useCallback, useContext, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "../vendor/preact/hooks.js";

/** Elements from a template: text in it is text, never markup. */
export const html = htm.bind(h);

/**
 * A component that is drawn again only if a prop has changed.
 * @param {(props: object) => any} draw
 */
export function memo(draw) {
  return class extends Component {
    shouldComponentUpdate(next) {
      const names = new Set([...Object.keys(next), ...Object.keys(this.props)]);
      return [...names].some((name) => name !== "children" && next[name] !== this.props[name]);
    }

    render() {
      return h(draw, this.props);
    }
  };
}

/** Class names that apply: `classes("a", busy && "b")`. */
export const classes = (...names) => names.filter(Boolean).join(" ");
