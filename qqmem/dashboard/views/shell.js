/** The frame of the page: where one can go, how the connection is, language and theme; in it the view. */

import { useApp, usePhrases } from "../core/app.js";
import { html, useEffect } from "../core/html.js";
import { VIEWS, link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { Button, sentence } from "../parts/basics.js";
import { Boundary } from "../parts/boundary.js";
import { Icon, Mark } from "../parts/icons.js";
import { LanguageSwitch, ThemeSwitch } from "../parts/switches.js";
import { Toasts } from "../parts/toasts.js";
import { Conversations } from "./conversations.js";
import { Live } from "./live.js";
import { LogIn } from "./login.js";
import { Memories } from "./memories.js";
import { System } from "./system.js";
import { Training } from "./training.js";

const DRAWN = { live: Live, conversations: Conversations, memories: Memories, training: Training, system: System };

/** The whole page. */
export function Shell() {
  const { session, language, toasts } = useApp();
  const [who, refused, t] = [useStore(session.current), useStore(session.refused), usePhrases()];
  useEffect(() => {
    document.documentElement.lang = useTag(t.language);
  }, [t]);
  if (!who) return html`<${Unreachable} problem=${refused} />`;
  if (!who.authenticated) return html`<${LogIn} />`;
  return html`<${Inside} key=${who.name} /><${Toasts} toasts=${toasts} language=${language} />`;
}

const useTag = (language) => (language === "zh" ? "zh-CN" : "en");

function Unreachable({ problem }) {
  const { session } = useApp();
  const t = usePhrases();
  useEffect(() => {
    const timer = setInterval(session.check, 2000);
    return () => clearInterval(timer);
  }, []);
  return html`<main class="gate-page"><${Mark} size=${44} /><p role="alert">${problem ? sentence(t, problem) : t("problem.network")}</p></main>`;
}

function Inside() {
  const { route } = useApp();
  const { view, id, query } = useStore(route);
  const t = usePhrases();
  useEffect(() => {
    document.title = `${t(`view.${view}`)} · qqmem`;
  }, [view, t]);
  const View = DRAWN[view];
  return html`<a class="skip" href="#main" onClick=${toMain}>${t("skip")}</a>
    <div class="shell">
      <${Rail} view=${view} />
      <main id="main" tabindex="-1" class=${`view view-${view}`} data-view=${view} key=${view}><${Boundary}><${View} id=${id} query=${query} /><//></main>
    </div>`;
}

/** A fragment would be taken for a view. */
function toMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Rail({ view }) {
  const { session } = useApp();
  const t = usePhrases();
  const who = useStore(session.current);
  return html`<header class="rail">
    <a class="brand" href=${link("live")}><${Mark} /><span class="brand-name">qqmem</span></a>
    <nav aria-label=${t("navigation")}>
      ${VIEWS.map((name) => html`<a key=${name} href=${link(name)} aria-current=${name === view ? "page" : undefined}>
        <${Icon} name=${name} size=${20} /><span>${t(`view.${name}`)}</span></a>`)}
    </nav>
    <div class="rail-foot">
      <${Connection} />
      <div class="rail-switches">
        <${LanguageSwitch} /><${ThemeSwitch} />
        ${who.required && html`<${Button} icon="logout" label=${t("logout")} action="logout" kind="quiet" onClick=${session.logOut} />`}
      </div>
    </div>
  </header>`;
}

function Connection() {
  const { live } = useApp();
  const t = usePhrases();
  const status = useStore(live.status);
  return html`<p id="connection" class="connection" data-status=${status} role="status" title=${t(`connection.${status}`)}><i aria-hidden="true"></i><span>${t(`connection.${status}`)}</span></p>`;
}
