/** The socket that watches: it connects by itself, again and again, and hands over batches of frames once a display frame. */

import { pause } from "./backoff.js";
import { nextFrame, store } from "./store.js";

/**
 * @param {(frames: object[]) => void} take
 * @param {() => Promise<boolean>} mayConnect asked after a connection that did not open; false ends the trying
 * @returns {{status: object, start: () => void, stop: () => void}} status: a store of `connecting`, `open` or `closed`
 */
export function watchLive(take, mayConnect) {
  const status = store("closed");
  const pending = [];
  let [socket, timer, tries, wanted] = [null, 0, 0, false];

  const draw = () => {
    const batches = pending.splice(0);
    if (batches.length) take(batches.flatMap((batch) => JSON.parse(batch)));
  };

  function connect() {
    clearTimeout(timer);
    if (!wanted || socket) return;
    status.set("connecting");
    const made = new WebSocket(socketUrl("/ws/live"));
    socket = made;
    let opened = false;
    made.onopen = () => {
      opened = true;
      tries = 0;
      status.set("open");
    };
    made.onmessage = ({ data }) => {
      if (pending.push(data) === 1) nextFrame(draw);
    };
    made.onclose = () => socket === made && lost(opened);
  }

  async function lost(opened) {
    socket = null;
    if (!wanted) return;
    status.set("connecting");
    if (!opened && navigator.onLine && !(await mayConnect())) return stop();
    tries += 1;
    clearTimeout(timer);
    timer = setTimeout(connect, pause(tries));
  }

  function drop() {
    const old = socket;
    socket = null;
    old?.close();
  }

  function stop() {
    wanted = false;
    clearTimeout(timer);
    drop();
    status.set("closed");
  }

  addEventListener("offline", () => {
    if (!wanted) return;
    drop();
    clearTimeout(timer);
    status.set("closed");
  });
  addEventListener("online", connect);
  document.addEventListener("visibilitychange", () => document.hidden || connect());
  return {
    status,
    stop,
    start() {
      wanted = true;
      tries = 0;
      connect();
    },
  };
}

/** The address of a socket of this service. */
export const socketUrl = (path) => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
