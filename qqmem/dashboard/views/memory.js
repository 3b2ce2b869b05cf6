/** One memory: what it says, where it comes from, what happened to it; and what one may do with it. */

import { path } from "../core/api.js";
import { useApp, usePhrases } from "../core/app.js";
import { html, useEffect, useRef, useState } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { Badge, Button, ConversationName, Fault, Loading, Name, Time, scopeName } from "../parts/basics.js";
import { Confirm } from "../parts/dialog.js";
import { Icon } from "../parts/icons.js";

/** @param {{id: number, close: string}} props close: the address without it */
export function MemoryDetail({ id, close }) {
  const { api, vitals } = useApp();
  const t = usePhrases();
  const mark = useStore(vitals).memoriesAt;
  const { value: memory, problem, again } = useFetched(() => api.get(path`/api/memories/${id}`), [id, mark]);
  return html`<header class="detail-head">
      <a class="button quiet icon-only back" href=${close} aria-label=${t("back")} title=${t("back")}><${Icon} name="left" /></a>
      <h2>${t("memories.number", { id })}</h2>
      ${memory && !problem && html`<${Changes} memory=${memory} again=${again} close=${close} />`}
    </header>
    <div class="detail-body">
      ${problem?.status === 404 ? html`<p class="gone">${t("recall.gone")}</p>` : html`<${Fault} problem=${problem} />`}
      ${!memory && !problem && html`<${Loading} />`}
      ${memory && !problem && html`<${Facts} memory=${memory} again=${again} /><${Sources} memory=${memory} /><${Past} id=${id} mark=${mark} text=${memory.text} />`}
    </div>`;
}

function Changes({ memory, again, close }) {
  const { api, session, recollections } = useApp();
  const t = usePhrases();
  const [isAsking, setAsking] = useState(false);
  if (!session.may("admin")) return null;
  async function pin() {
    await api.post(path`/api/memories/${memory.id}/pin`, { pinned: !memory.pinned });
    again();
  }
  async function forget() {
    await api.remove(path`/api/memories/${memory.id}`);
    recollections.forget([memory.id]);
    location.replace(close);
  }
  return html`<span class="detail-buttons">
    <${Button} icon="pin" action="pin" kind="quiet" label=${t(memory.pinned ? "memories.unpin" : "memories.pin")} aria-pressed=${memory.pinned} onClick=${pin} />
    <${Button} icon="forget" action="forget" kind="quiet" label=${t("memories.forget")} onClick=${() => setAsking(true)} />
    ${isAsking && html`<${Confirm} title=${t("memories.forget.title")} yes=${t("memories.forget")} act=${forget} onClose=${() => setAsking(false)}>
      <blockquote class="came" dir="auto">${visible(memory.text)}</blockquote><p>${t("memories.forget.what")}</p><//>`}
  </span>`;
}

function Facts({ memory, again }) {
  const { session } = useApp();
  const t = usePhrases();
  const [isEditing, setEditing] = useState(false);
  const { text, scope, state, kind, subject_id, speaker_name, speaker_id, valid_from, valid_to, superseded_by, hits, used_at, decodable, created_at, pinned } = memory;
  return html`<div class="memory-sheet">
    ${isEditing ? html`<${Edit} memory=${memory} done=${() => { setEditing(false); again(); }} cancel=${() => setEditing(false)} />`
      : html`<p class="memory-big" dir="auto">${visible(text)}</p>
`}
    <div class="memory-badges"><${Badge} kind=${state === "searchable" ? "memory" : "quiet"}>${t(`state.${state}`)}<//><${Badge}>${t(`kind.${kind}`)}<//>
      ${pinned && html`<${Badge}>${t("memories.pinned")}<//>`}${decodable && html`<${Badge} kind="memory">${t("memories.decodable.by", { release: decodable })}<//>`}
      ${session.may("admin") && !isEditing && html`<${Button} icon="edit" action="edit" kind="small" onClick=${() => setEditing(true)}>${t("memories.edit")}<//>`}</div>
    <dl class="facts">
      <div><dt>${t("filter.scope")}</dt><dd><${Name} of=${scopeName(t, scope)} /></dd></div>
      <div><dt>${t("memories.subject")}</dt><dd><a href=${link("memories", "", { subject: subject_id })}><${Name} of=${subject_id === speaker_id ? speaker_name : ""} fallback=${subject_id || "–"} /></a></dd></div>
      <div><dt>${t("memories.speaker")}</dt><dd><${Name} of=${speaker_name} fallback=${speaker_id || "–"} /></dd></div>
      <div><dt>${t("memories.created")}</dt><dd><${Time} at=${created_at} style="full" /></dd></div>
      <div><dt>${t("memories.valid")}</dt><dd><${Time} at=${valid_from} style="day" />${valid_to && html` – <${Time} at=${valid_to} style="day" />`}</dd></div>
      <div><dt>${t("memories.used")}</dt><dd>${t("memories.hits", { count: hits })}${used_at && html` · <${Time} at=${used_at} style="relative" />`}</dd></div>
      ${superseded_by && html`<div><dt>${t("memories.newer")}</dt><dd><a href=${link("memories", superseded_by)}>${superseded_by}</a></dd></div>`}
    </dl>
  </div>`;
}

function Edit({ memory, done, cancel }) {
  const { api, recollections } = useApp();
  const t = usePhrases();
  const field = useRef(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => field.current.focus(), []);
  async function save(event) {
    event.preventDefault();
    try {
      await api.patch(path`/api/memories/${memory.id}`, { text: field.current.value.trim() });
      recollections.forget([memory.id]);
      done();
    } catch (error) {
      setProblem(error);
    }
  }
  return html`<form class="memory-edit" onSubmit=${save}>
    <textarea id="memory-text" ref=${field} rows="3" aria-label=${t("memories.text")} defaultValue=${memory.text}></textarea>
    <${Fault} problem=${problem} />
    <div class="dialog-buttons"><${Button} action="back" onClick=${cancel}>${t("back")}<//><button type="submit" class="button primary" data-action="save">${t("save")}</button></div>
  </form>`;
}

function Sources({ memory }) {
  const { api } = useApp();
  const t = usePhrases();
  const ids = memory.sources;
  const { value } = useFetched(async () => (ids.length ? (await api.get("/api/messages", { ids })).messages : []), [memory.id]);
  return html`<section class="memory-sources"><h3>${t("memories.sources")}</h3>
    ${value?.map((message) => html`<a key=${message.id} class="source" href=${link("conversations", message.conversation, { at: message.id })}>
      <span class="hit-head"><strong><${Name} of=${message.sender.name} fallback=${message.sender.id} /></strong> <${ConversationName} id=${message.conversation} /> <${Time} at=${message.time} /></span>
      <span class="hit-text" dir="auto">${visible(message.text)}</span></a>`)}
    ${value && !value.length && html`<p class="hint">${t("memories.sources.none")}</p>`}
  </section>`;
}

function Past({ id, mark, text }) {
  const { api } = useApp();
  const t = usePhrases();
  const { value } = useFetched(() => api.get(path`/api/memories/${id}/history`), [id, mark, text]);
  return html`<section class="memory-past"><details open><summary data-action="history"><${Icon} name="history" size=${16} /> ${t("memories.history")}</summary>
    <ol>${[...(value?.events ?? [])].reverse().map(({ id: key, event, old, new: made, actor, reason, at }) => html`<li key=${key}>
      <span class="past-head"><strong>${t(`event.${event}`)}</strong> <bdi>${t.has(`actor.${actor}`) ? t(`actor.${actor}`) : visible(actor)}</bdi> <${Time} at=${at} /></span>
      ${event === "UPDATE" && html`<del dir="auto">${visible(old)}</del>`}${event === "UPDATE" && html`<ins dir="auto">${visible(made)}</ins>`}
      ${reason && html`<span class="hint" dir="auto">${visible(reason)}</span>`}</li>`)}</ol></details>
  </section>`;
}
