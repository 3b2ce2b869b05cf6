/** System: how the service is, what it has done, what it runs on, and by which settings. */

import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html, useEffect, useState } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { useStore } from "../core/store.js";
import { oneLine, visible } from "../core/text.js";
import { Badge, Fault, Loading } from "../parts/basics.js";
import { Settings } from "./settings.js";

const PERIOD = 5000;

/** Figures are fetched every five seconds while they are looked at. */
export function System() {
  const { api, session, vitals } = useApp();
  const t = usePhrases();
  const { health } = useStore(vitals);
  const { value: system, problem, again } = useFetched(() => api.get("/api/system"), [health?.status]);
  const [, redraw] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) again();
      redraw((count) => count + 1);
    }, PERIOD);
    return () => clearInterval(timer);
  }, []);
  return html`<div class="page system">
    <header class="view-head"><h1>${t("view.system")}</h1></header>
    <${Fault} problem=${problem} />
    ${!system && !problem && html`<${Loading} />`}
    ${system && html`<${Figures} system=${system} health=${health ?? system.health} />`}
    ${session.may("admin") && html`<${Settings} />`}
  </div>`;
}

function Figures({ system, health }) {
  const t = usePhrases();
  const f = formats(t);
  const { model = {}, engine, kv, turns, latency = { count: 0 }, storage } = system;
  const yes = (value) => (value === undefined ? undefined : t(value ? "yes" : "no"));
  return html`<div class="cards">
    <${Card} title=${t("system.health")} badge=${html`<${Badge} kind=${health.status === "ok" ? "memory" : "bad"}>${t(`health.${health.status}`)}<//>`} facts=${[
      [t("system.reason"), health.reason && visible(health.reason)], [t("system.version"), system.version], [t("system.up"), f.seconds(system.uptime_s)],
      [t("system.memory"), f.bytes(system.rss_bytes)], ["Python", system.python], [t("system.sockets"), system.sockets]]} />
    <${Card} title=${t("system.model")} facts=${[
      [t("system.name"), visible(model.name ?? health.model)], [t("system.release"), releaseName(t, system.release)], [t("system.trigger"), system.trigger && t(`trigger.${system.trigger}`)],
      [t("system.device"), [model.device, model.dtype, model.int8 && "int8"].filter(Boolean).join(" · ")], [t("system.threads"), model.threads],
      [t("system.parameters"), model.parameters > 0 && `${f.number(model.parameters / 1e6)} M`], [t("system.context"), f.number(model.max_context)], [t("system.thinks"), yes(model.thinks)]]} />
    <${Card} title=${t("system.latency")} note=${latency.count > 0 && t("system.latency.of", { count: latency.count })} facts=${[
      [t("system.first"), pair(f, latency.first_token)], [t("system.total"), pair(f, latency.total)], [t("vitals.speed"), latency.tokens_s && `${f.number(latency.tokens_s, 1)} token/s`],
      ...Object.entries(turns).map(([outcome, count]) => [t(`outcome.${outcome}`), f.number(count)])]} />
    <${Card} title=${t("system.engine")} facts=${[
      [t("vitals.running"), `${engine.running} / ${engine.max_batch}`], [t("vitals.waiting"), engine.waiting], [t("system.steps"), f.number(engine.steps)],
      [t("system.prompt"), f.number(engine.prompt_tokens)], [t("system.written"), f.number(engine.new_tokens)],
      [t("system.hits"), engine.prompt_tokens ? f.share(engine.cached_tokens / engine.prompt_tokens, 1) : undefined]]}>
      <${Meter} label=${t("system.kv")} value=${kv.bytes} most=${kv.budget_bytes} />
    <//>
    <${Card} title=${t("system.storage")} facts=${[
      [t("view.conversations"), f.number(storage.conversations)], [t("system.messages"), f.number(storage.messages)], [t("system.turns"), f.number(storage.turns)],
      [t("view.memories"), f.number(storage.memories)], [t("system.database"), f.bytes(storage.database_bytes)]]} />
    <${Bridges} system=${system} />
  </div>`;
}

const releaseName = (t, release) => (release ? (t.has(`release.${release}`) ? t(`release.${release}`) : release) : t("release.base"));
const pair = (f, parts) => parts && `${f.seconds(parts.p50)} · ${f.seconds(parts.p95)}`;

function Card({ title, badge, note, facts, children }) {
  return html`<section class="card"><header class="card-head"><h2>${title}</h2>${badge}${note && html`<span class="hint">${note}</span>`}</header>
    <dl class="facts">${facts.filter(([, value]) => value !== undefined && value !== "" && value !== null && value !== false).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${children}</section>`;
}

function Meter({ label, value, most }) {
  const f = formats(usePhrases());
  return html`<div class="meter"><span>${label}</span><span class="meter-value">${f.bytes(value)} / ${f.bytes(most)}</span>
    <meter min="0" max=${most || 1} value=${value} aria-label=${label}></meter></div>`;
}

function Bridges({ system }) {
  const { vitals } = useApp();
  const t = usePhrases();
  const live = useStore(vitals).bridges;
  const known = new Map((system.bridges ?? []).map((bridge) => [bridge.bridge, { connected: true, ...bridge }]));
  for (const [name, bridge] of live) known.set(name, { ...known.get(name), ...bridge });
  return html`<section class="card"><header class="card-head"><h2>${t("system.bridges")}</h2>${system.undelivered > 0 && html`<${Badge} kind="bad">${t("system.undelivered", { count: system.undelivered })}<//>`}</header>
    ${!known.size && html`<p class="hint">${t("system.bridges.none")}</p>`}
    ${[...known.values()].map(({ bridge, self_id, connected, status }) => html`<div key=${bridge} class="bridge">
      <p class="bridge-name"><strong><bdi>${oneLine(bridge)}</bdi></strong> ${self_id && html`<small>QQ <bdi>${oneLine(self_id)}</bdi></small>`}</p>
      <p class="bridge-lights"><${Light} is=${connected} name=${t("system.bridge")} /><${Light} is=${status?.napcat} name="NapCat" /><${Light} is=${status?.online} name=${t("system.online")} /></p>
      ${status && html`<p class="hint">${t("system.queued", { count: status.queued ?? 0 })}${Object.entries(status.counters ?? {}).map(([name, count]) => html` · ${oneLine(name)} ${count}`)}</p>`}
    </div>`)}</section>`;
}

function Light({ is, name }) {
  const t = usePhrases();
  return html`<span class=${classes("light", is && "on")}><i aria-hidden="true"></i>${name}<span class="visually-hidden"> ${t(is ? "yes" : "no")}</span></span>`;
}
