/** The page: its parts are made here, introduced to each other, and drawn. */

import { makeApi, path } from "./core/api.js";
import { AppContext } from "./core/app.js";
import { html, render } from "./core/html.js";
import { watchLive } from "./core/live.js";
import { pastExchanges, remember } from "./core/past.js";
import { makeRecollections } from "./core/recollections.js";
import { routes } from "./core/router.js";
import { apply, makeScene } from "./core/scene.js";
import { makeSession } from "./core/session.js";
import { store } from "./core/store.js";
import { makeTalk } from "./core/talk.js";
import { makeTheme } from "./core/theme.js";
import { addPast, feel, makeVitals, timed } from "./core/vitals.js";
import { makeLanguage } from "./i18n/index.js";
import { makeToasts } from "./parts/toasts.js";
import { Shell } from "./views/shell.js";

const PAST_CONVERSATIONS = 6;
const PAST_MESSAGES = 8;

function make() {
  const api = makeApi(() => session.lose());
  const session = makeSession(api);
  const [scene, vitals] = [store(makeScene()), store(makeVitals())];
  const toasts = makeToasts();
  const memories = makeRecollections(
    async (ids) => (await api.get("/api/memories", { ids })).memories, () => memories.seen.touch(),
  );
  memories.seen = store(null);

  function take(frames) {
    const now = Date.now();
    for (const frame of frames) {
      apply(scene.get(), frame, now);
      feel(vitals.get(), frame);
      if (frame.type === "memory.changed" || frame.type === "memory.forgotten") memories.forget(frame.ids);
      if (frame.type === "snapshot") catchUp(frame).catch(() => {}); // what was missed is shown by the next snapshot
    }
    scene.touch();
    vitals.touch();
  }

  async function catchUp({ run }) {
    const { conversations } = await api.get("/api/conversations", { limit: PAST_CONVERSATIONS });
    for (const { id, name } of conversations) {
      if (name) scene.get().names.set(id, name);
      const page = await api.get(path`/api/conversations/${id}/messages`, { trace: true, limit: PAST_MESSAGES });
      remember(scene.get(), pastExchanges(id, page));
      timed(vitals.get(), page.turns);
      scene.touch();
    }
    if (run?.state !== "running") return;
    const { points } = await api.get(path`/api/training/runs/${run.id}/progress`);
    addPast(vitals.get(), run.id, points);
    vitals.touch();
  }

  const live = watchLive(take, session.check);
  return {
    api, session, scene, vitals, toasts, live, recollections: memories,
    language: makeLanguage(localStorage), theme: makeTheme(localStorage), route: routes(), talk: makeTalk(toasts.complain),
  };
}

const app = make();
app.session.current.watch(() => (app.session.current.get()?.authenticated ? app.live.start() : app.live.stop()));
await app.session.check();
render(html`<${AppContext.Provider} value=${app}><${Shell} /><//>`, document.getElementById("app"));
