/** Where a fault of a view ends: it is told, and the rest of the page goes on. */

import { usePhrases } from "../core/app.js";
import { Component, html } from "../core/html.js";
import { Button } from "./basics.js";

/** Draws its children, or that they cannot be drawn. */
export class Boundary extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ isBroken: true });
  }

  render({ children }, { isBroken }) {
    return isBroken ? html`<${Broken} />` : children;
  }
}

function Broken() {
  const t = usePhrases();
  return html`<div class="empty" role="alert"><p class="empty-title">${t("problem.broken")}</p>
    <${Button} action="reload" onClick=${() => location.reload()}>${t("problem.broken.again")}<//></div>`;
}
