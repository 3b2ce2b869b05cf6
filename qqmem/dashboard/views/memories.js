/** Memories: a list or a search, a map, and the one that is open. */

import { useApp, usePhrases } from "../core/app.js";
import { classes, html } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { link } from "../core/router.js";
import { visible } from "../core/text.js";
import { Empty, scopeName } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";
import { SearchField } from "../parts/search.js";
import { MemoryList } from "./memory_list.js";
import { MemoryMap } from "./memory_map.js";
import { MemoryDetail } from "./memory.js";

const STATES = ["searchable", "superseded", "expired"];
const KINDS = ["fact", "message"];
const FILTERS = ["scope", "subject", "state", "kind"];

/** @param {{id: string, query: URLSearchParams}} props id: of the memory that is open */
export function Memories({ id, query }) {
  const t = usePhrases();
  const asked = Object.fromEntries(query);
  const to = (changes, open = id) => link("memories", open, { ...asked, ...changes });
  const go = (changes) => location.replace(to(changes));
  const isMap = asked.show === "map";
  return html`<div class=${classes("two", "memories", id && "has-detail", isMap && "is-map")}>
    <section class="two-list" aria-label=${t("view.memories")}>
      <header class="view-head"><h1>${t("view.memories")}</h1>
        <div class="segmented" role="group" aria-label=${t("memories.show")}>
          ${["list", "map"].map((show) => html`<a key=${show} href=${to({ show: show === "map" ? "map" : "" })} aria-current=${(show === "map") === isMap ? "true" : undefined}>
            <${Icon} name=${show} size=${16} /><span>${t(`memories.${show}`)}</span></a>`)}
        </div></header>
      ${isMap ? html`<${MemoryMap} open=${Number(id)} to=${to} />` : html`<${Filters} asked=${asked} go=${go} /><${MemoryList} asked=${asked} open=${Number(id)} to=${to} />`}
    </section>
    <section class="two-detail" aria-label=${t("memories.one")}>
      ${id ? html`<${MemoryDetail} id=${Number(id)} key=${id} close=${to({}, "")} />` : html`<${Empty} title=${t("memories.choose")} />`}
    </section>
  </div>`;
}

function Filters({ asked, go }) {
  const { api } = useApp();
  const t = usePhrases();
  const { value: counts } = useFetched(() => api.get("/api/memories/counts"), []);
  const isSearch = Boolean(asked.q);
  const choices = {
    scope: (counts?.scopes ?? []).map(({ scope, count }) => [scope, visible(scopeName(t, scope)), count]),
    subject: (counts?.subjects ?? []).filter(({ subject_id }) => subject_id).map(({ subject_id, name, count }) => [subject_id, visible(name || subject_id), count]),
    state: STATES.map((state) => [state, t(`state.${state}`), counts?.states?.[state]]),
    kind: KINDS.map((kind) => [kind, t(`kind.${kind}`), counts?.kinds?.[kind]]),
  };
  return html`<div class="filters" role="search">
    <${SearchField} id="memory-search" label=${t("memories.search")} words=${asked.q ?? ""} search=${(q) => go({ q })} />
    <div class="filter-row">
      ${FILTERS.map((name) => html`<label key=${name} class=${classes("filter", asked[name] && "set")}><span class="visually-hidden">${t(`filter.${name}`)}</span>
        <select value=${asked[name] ?? ""} disabled=${isSearch && name !== "scope"} onChange=${(event) => go({ [name]: event.target.value })}>
          <option value="">${t(`filter.${name}`)}</option>
          ${choices[name].map(([value, text, count]) => html`<option key=${value} value=${value}>${text}${count != null ? ` · ${count}` : ""}</option>`)}
        </select></label>`)}
    </div>
  </div>`;
}
