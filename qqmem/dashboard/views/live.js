/** Live: everything that is said and written, as it happens. */

import { useApp, usePhrases } from "../core/app.js";
import { classes, html, useLayoutEffect, useRef, useState } from "../core/html.js";
import { useStore } from "../core/store.js";
import { ConversationName, Empty } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";
import { Composer } from "./composer.js";
import { Entry } from "./exchange.js";
import { Vitals } from "./vitals.js";

const NEAR = 60;

/** The feed of all conversations, or of one. */
export function Live() {
  const { session } = useApp();
  const t = usePhrases();
  const [only, setOnly] = useState("");
  return html`<div class="live">
    <h1 class="visually-hidden">${t("view.live")}</h1>
    <${Vitals} />
    <div class="live-columns">
      <${Feed} only=${only} />
      <${Going} only=${only} choose=${setOnly} />
    </div>
    ${session.may("chat") && html`<${Composer} />`}
  </div>`;
}

function Feed({ only }) {
  const { scene } = useApp();
  const t = usePhrases();
  const { entries, names } = useStore(scene);
  const [box, sticks, last] = [useRef(null), useRef(true), useRef(0)];
  const [isAway, setAway] = useState(false);
  const shown = only ? entries.filter((entry) => entry.conversation === only) : entries;

  const toEnd = () => { box.current.scrollTop = box.current.scrollHeight; };
  useLayoutEffect(() => {
    if (sticks.current) toEnd();
  });
  useLayoutEffect(() => {
    const watcher = new ResizeObserver(() => sticks.current && toEnd()); // a recall unfolds after it was drawn
    watcher.observe(box.current.firstChild);
    return () => watcher.disconnect();
  }, []);
  function scrolled({ currentTarget: node }) {
    const isUp = node.scrollTop < last.current - 1; // somebody goes up; what grows below moves nothing up
    last.current = node.scrollTop;
    const isNear = node.scrollHeight - node.scrollTop - node.clientHeight < NEAR;
    if (isNear) sticks.current = true;
    else if (isUp) sticks.current = false;
    setAway(!sticks.current);
  }

  return html`<section class="feed-box" aria-label=${t("live.feed")}>
    <div class="feed" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label=${t("live.feed")}>
      <div class="feed-inner">
        ${!shown.length && html`<${Empty} title=${t("live.empty")}>${t("live.empty.hint")}<//>`}
        ${shown.map((entry, at) => html`<${Entry} key=${entry.key} entry=${entry} rev=${entry.rev} name=${names.get(entry.conversation)}
          isSame=${at > 0 && shown[at - 1].conversation === entry.conversation && shown[at - 1].kind === entry.kind} />`)}
      </div>
    </div>
    ${isAway && html`<button type="button" class="button to-end" onClick=${() => { sticks.current = true; toEnd(); setAway(false); }}>
      <${Icon} name="down" /><span>${t("live.newest")}</span></button>`}
  </section>`;
}

/** Which conversations there are, and in which something is written now. */
function Going({ only, choose }) {
  const { scene } = useApp();
  const t = usePhrases();
  const { entries, names } = useStore(scene);
  const found = new Map();
  for (const { kind, conversation, outcome } of [...entries].reverse()) {
    if (kind === "exchange") found.set(conversation, found.get(conversation) || outcome === "running");
  }
  return html`<aside class="going" aria-label=${t("live.conversations")}>
    <h2>${t("live.conversations")}</h2>
    <ul>
      <li><button type="button" class="going-one" aria-pressed=${only === ""} onClick=${() => choose("")}>${t("live.all")}</button></li>
      ${[...found].map(([id, isWriting]) => html`<li key=${id}>
        <button type="button" class=${classes("going-one", isWriting && "writing")} aria-pressed=${only === id} onClick=${() => choose(only === id ? "" : id)}>
          <${ConversationName} id=${id} name=${names.get(id)} />
          ${isWriting && html`<span class="pulse" title=${t("live.writing")}><span class="visually-hidden">${t("live.writing")}</span></span>`}
        </button></li>`)}
    </ul>
  </aside>`;
}
