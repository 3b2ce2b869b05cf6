/** Conversations: what was said, with what the bot did about it. */

import { path } from "../core/api.js";
import { useApp, usePhrases } from "../core/app.js";
import { classes, html, useState } from "../core/html.js";
import { useAgain, useFetched, usePages } from "../core/pages.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { Button, ConversationName, Empty, Fault, Loading, Name, Time } from "../parts/basics.js";
import { Confirm } from "../parts/dialog.js";
import { Icon } from "../parts/icons.js";
import { SearchField } from "../parts/search.js";
import { VirtualList } from "../parts/virtual.js";
import { Messages } from "./messages.js";

/** @param {{id: string, query: URLSearchParams}} props id: of the conversation that is open; `at` in the query: a message there */
export function Conversations({ id, query }) {
  const t = usePhrases();
  const words = query.get("q") ?? "";
  return html`<div class=${classes("two", id && "has-detail")}>
    <section class="two-list" aria-label=${t("view.conversations")}>
      <header class="view-head"><h1>${t("view.conversations")}</h1></header>
      <div role="search"><${SearchField} id="message-search" label=${t("conversations.search")} words=${words}
        search=${(q) => location.replace(link("conversations", id, { q }))} /></div>
      ${words ? html`<${Hits} words=${words} open=${id} key=${words} />` : html`<${All} open=${id} />`}
    </section>
    <section class="two-detail" aria-label=${t("conversations.one")}>
      ${id ? html`<${One} id=${id} at=${Number(query.get("at")) || 0} words=${words} key=${`${id} ${query.get("at")}`} />`
        : html`<${Empty} title=${t("conversations.choose")} />`}
    </section>
  </div>`;
}

function All({ open }) {
  const { api } = useApp();
  const t = usePhrases();
  const pages = usePages(async (before) => {
    const { conversations, next } = await api.get("/api/conversations", { limit: 100, before });
    return { items: conversations, next };
  }, []);
  if (pages.problem) return html`<${Fault} problem=${pages.problem} />`;
  if (!pages.items.length) return pages.isBusy ? html`<${Loading} />` : html`<${Empty} title=${t("conversations.none")} />`;
  const rows = pages.items.map((conversation) => ({ key: conversation.id, conversation }));
  return html`<${Fresh} pages=${pages} /><${VirtualList} rows=${rows} guess=${62} onEnd=${pages.more} label=${t("view.conversations")} draw=${({ conversation: one }) => html`
    <a class="list-row" href=${link("conversations", one.id)} data-conversation=${one.id} aria-current=${one.id === open ? "true" : undefined}>
      <span class="list-main"><${ConversationName} id=${one.id} name=${one.name} /></span>
      <span class="list-side"><${Time} at=${one.updated_at} /><small>${t("conversations.messages", { count: one.num_messages })}</small></span>
    </a>`} />`;
}

/** Draws nothing, and so often: the list is fetched again when something was said. */
function Fresh({ pages }) {
  const { scene } = useApp();
  useAgain(useStore(scene).lastKey, pages);
  return null;
}

function Hits({ words, open }) {
  const { api } = useApp();
  const t = usePhrases();
  const pages = usePages(async (before) => {
    const { messages, next } = await api.get("/api/messages", { q: words, limit: 50, before });
    return { items: messages, next };
  }, [words]);
  if (pages.problem) return html`<${Fault} problem=${pages.problem} />`;
  if (!pages.items.length) return pages.isBusy ? html`<${Loading} />` : html`<${Empty} title=${t("search.none")} />`;
  const rows = pages.items.map((message) => ({ key: String(message.id), message }));
  return html`<${VirtualList} rows=${rows} guess=${84} onEnd=${pages.more} label=${t("conversations.hits")} draw=${({ message }) => html`
    <a class="list-row hit" href=${link("conversations", message.conversation, { q: words, at: message.id })} aria-current=${message.conversation === open ? "true" : undefined}>
      <span class="list-main"><span class="hit-head"><${Speaker} message=${message} /> <${ConversationName} id=${message.conversation} /></span>
        <span class="hit-text" dir="auto"><${Marked} text=${message.text} words=${words} /></span></span>
      <span class="list-side"><${Time} at=${message.time} /></span>
    </a>`} />`;
}

const Speaker = ({ message }) => html`<strong><${Name} of=${message.sender.name} fallback=${message.sender.id || "bot"} /></strong>`;

/** A text with the words that were searched for marked. */
export function Marked({ text, words }) {
  const shown = visible(text);
  const [first] = words.split(/\s+/).filter(Boolean);
  const at = first ? shown.toLowerCase().indexOf(first.toLowerCase()) : -1;
  if (at < 0) return shown;
  const start = Math.max(0, at - 24);
  return html`${start > 0 && "…"}${shown.slice(start, at)}<mark>${shown.slice(at, at + first.length)}</mark>${shown.slice(at + first.length)}`;
}

function One({ id, at, words }) {
  const { api, session } = useApp();
  const t = usePhrases();
  const [isAsking, setAsking] = useState(false);
  const { value } = useFetched(() => api.get(path`/api/conversations/${id}`), [id]);
  async function remove() {
    await api.remove(path`/api/conversations/${id}`);
    location.hash = link("conversations");
    location.reload(); // nothing of it stays in the page's memory
  }
  return html`<header class="detail-head">
      <a class="button quiet icon-only back" href=${link("conversations", "", { q: words })} aria-label=${t("back")} title=${t("back")}><${Icon} name="left" /></a>
      <h2><${ConversationName} id=${id} name=${value?.name} /></h2>
      <span class="detail-buttons">
        ${at > 0 && html`<a class="button small" href=${link("conversations", id)}>${t("conversations.newest")}</a>`}
        ${session.may("admin") && html`<a class="button icon-only quiet" href=${path`/api/conversations/${id}/export`} download aria-label=${t("export")} title=${t("export")}><${Icon} name="export" /></a>
          <${Button} icon="forget" label=${t("delete")} action="delete" kind="quiet" onClick=${() => setAsking(true)} />`}
      </span>
    </header>
    <${Messages} id=${id} at=${at} />
    ${isAsking && html`<${Confirm} title=${t("conversations.delete.title")} yes=${t("delete")} act=${remove} onClose=${() => setAsking(false)}>
      <p><${ConversationName} id=${id} name=${value?.name} /></p><p>${t("conversations.delete.what")}</p><//>`}`;
}
