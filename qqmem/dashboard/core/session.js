/** Who one is here: asked of the service, which alone can read the cookie. */

import { store } from "./store.js";

/** @param {{get: Function, post: Function, remove: Function}} api */
export function makeSession(api) {
  const current = store(null, queueMicrotask);
  const refused = store(null, queueMicrotask);

  /** @returns {Promise<boolean>} whether it makes sense to try again; also true while the service cannot be reached */
  async function check() {
    try {
      const before = current.get();
      const found = await api.get("/api/session", {}, { quiet: true });
      current.set({ ...found, lost: !found.authenticated && Boolean(before?.authenticated || before?.lost) });
      refused.set(null);
      return current.get().authenticated;
    } catch (problem) {
      if (problem.code !== "network" && current.get() === null) refused.set(problem);
      return problem.code === "network" || problem.status >= 500;
    }
  }

  return {
    current,
    /** Why not even the question who one is was answered; null otherwise. */
    refused,
    check,
    /** Whether one may do what needs a scope. */
    may: (scope) => current.get()?.scopes?.some((one) => one === scope || one === "admin") ?? false,
    lose: () => current.set({ ...current.get(), authenticated: false, required: true, lost: true }),
    async logIn(token) {
      current.set(await api.post("/api/session", { token }, { quiet: true }));
    },
    async logOut() {
      await api.remove("/api/session");
      current.set({ required: true, authenticated: false });
    },
  };
}
