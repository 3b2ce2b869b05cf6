/** Talking to the bot as a test user: a socket that is there while something is said or awaited. */

import { Problem } from "./api.js";
import { socketUrl } from "./live.js";

const IDLE = 60_000;

/**
 * @param {(problem: Problem) => void} complain told of what the service did not accept
 */
export function makeTalk(complain) {
  let [opening, waiting, idle] = [null, 0, 0];

  function open() {
    opening ??= new Promise((resolve, reject) => {
      const socket = new WebSocket(socketUrl("/ws/chat"));
      socket.onopen = () => resolve(socket);
      socket.onmessage = ({ data }) => hear(JSON.parse(data));
      socket.onclose = () => {
        [opening, waiting] = [null, 0];
        reject(new Problem("network", "The service cannot be reached."));
      };
    });
    return opening;
  }

  function hear(frame) {
    if (frame.type === "turn.end") waiting -= 1;
    if (frame.type === "error") {
      waiting -= 1;
      complain(new Problem(frame.error.code, frame.error.message));
    }
    if (frame.type === "turn.end" && frame.turn === undefined && frame.reply) complain(new Problem("command", frame.reply));
    leaveLater();
  }

  function leaveLater() {
    clearTimeout(idle);
    idle = setTimeout(() => waiting <= 0 && opening?.then((socket) => socket.close(), () => {}), IDLE);
  }

  return {
    /** @param {{conversation: string, sender: object, text: string}} message Raises Problem without a connection. */
    async say(message) {
      const socket = await open();
      waiting += 1;
      socket.send(JSON.stringify({ type: "message", addressed: true, ...message }));
      leaveLater();
    },
  };
}
