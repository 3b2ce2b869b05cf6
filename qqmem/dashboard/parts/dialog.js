/** A question that must be answered before something is done for good. */

import { usePhrases } from "../core/app.js";
import { html, useEffect, useRef, useState } from "../core/html.js";
import { Button, Fault } from "./basics.js";

/**
 * @param {object} props
 * @param {string} props.title
 * @param {string} props.yes what the button says
 * @param {() => Promise<void>} props.act raises Problem, which is shown; otherwise the dialog closes
 * @param {() => void} props.onClose
 */
export function Confirm({ title, yes, act, onClose, danger = true, children }) {
  const t = usePhrases();
  const dialog = useRef(null);
  const [problem, setProblem] = useState(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);

  async function confirm() {
    setBusy(true);
    try {
      await act();
      onClose();
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  }

  return html`<dialog ref=${dialog} class="dialog" aria-labelledby="dialog-title" onClose=${onClose}>
    <h2 id="dialog-title">${title}</h2>
    <div class="dialog-body">${children}</div>
    <${Fault} problem=${problem} />
    <div class="dialog-buttons">
      <${Button} action="back" onClick=${() => dialog.current.close()}>${t("back")}<//>
      <${Button} kind=${danger ? "danger" : "primary"} action="confirm" disabled=${isBusy} onClick=${confirm}>${yes}<//>
    </div>
  </dialog>`;
}
