/** What every view is made of: names, buttons, badges, notices, and times. */

import { usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html } from "../core/html.js";
import { oneLine } from "../core/text.js";
import { Icon } from "./icons.js";

/** Somebody's name, which may hold anything. */
export const Name = ({ of: name, fallback = "" }) => html`<bdi class="name">${oneLine(name || fallback)}</bdi>`;

/** A button with a drawing. Without `children` the label is for screen readers and the tooltip. */
export function Button({ icon, label, action, kind = "", children, ...props }) {
  return html`<button type="button" class=${classes("button", kind, !children && "icon-only")} data-action=${action}
    aria-label=${children ? undefined : label} title=${children ? undefined : label} ...${props}>
    ${icon && html`<${Icon} name=${icon} />`}${children && html`<span>${children}</span>`}
  </button>`;
}

/** A small label. kind: `memory`, `bad`, `quiet` or nothing. */
export const Badge = ({ kind = "", children, ...props }) =>
  html`<span class=${classes("badge", kind)} ...${props}>${children}</span>`;

/** What went wrong, or nothing. */
export function Fault({ problem }) {
  const t = usePhrases();
  if (!problem) return null;
  return html`<p class="fault" role="alert">${sentence(t, problem)}</p>`;
}

/** What a problem says, in the language of the page if it is one of those that the page knows. */
export const sentence = (t, problem) => (t.has(`problem.${problem.code}`) ? t(`problem.${problem.code}`) : problem.message);

/** There is nothing (yet); children say what would bring something. */
export const Empty = ({ title, children }) =>
  html`<div class="empty"><p class="empty-title">${title}</p>${children && html`<p>${children}</p>`}</div>`;

/** Something is on its way. */
export function Loading() {
  const t = usePhrases();
  return html`<p class="loading" role="status"><span class="visually-hidden">${t("loading")}</span><i></i><i></i><i></i></p>`;
}

/** A moment, short, with the whole of it as its title. */
export function Time({ at, style = "short" }) {
  const format = formats(usePhrases());
  if (!at) return null;
  return html`<time datetime=${new Date(at).toISOString()} title=${format.full(at)}>${format[style](at)}</time>`;
}

/** The conversation's name if one is known, with its kind and number. */
export function ConversationName({ id, name }) {
  const t = usePhrases();
  const [kind, number] = splitConversation(id);
  return html`<span class="conversation-name">
    ${name && html`<${Name} of=${name} />`}
    <span class=${classes("conversation-id", !name && "alone")}><span>${t(`conversation.${kind}`)}</span> <bdi>${number}</bdi></span>
  </span>`;
}

/** `group:20002` as ["group", "20002"]. */
export function splitConversation(id) {
  const at = id.indexOf(":");
  return [id.slice(0, at), id.slice(at + 1)];
}

/** Whose a memory is, in words. */
export function scopeName(t, scope) {
  const [kind, rest = ""] = [scope.split(":")[0], scope.slice(scope.indexOf(":") + 1)];
  const [who, where] = rest.split("@");
  return t.has(`scope.${kind}`) ? t(`scope.${kind}`, { who, where: where ?? "", rest }) : scope;
}

/** Where a memory belongs, without saying whose it is. */
export function placeName(t, scope) {
  const group = scope.match(/^group:(.*)$|@(.*)$/);
  if (group) return t("scope.group", { rest: group[1] ?? group[2] });
  return scope === "global" ? t("scope.global") : t("conversation.private");
}
