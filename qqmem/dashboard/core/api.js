/** Requests to the service, and its errors as one sentence for people. */

/** What the service refused, or that it could not be reached (code `network`). */
export class Problem extends Error {
  /**
   * @param {string} code for programs
   * @param {string} message one sentence
   * @param {number} status of HTTP; 0 if there was no answer
   */
  constructor(code, message, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/**
 * @param {() => void} onLost called when the service no longer knows us
 */
export function makeApi(onLost) {
  async function call(method, path, { query, body, signal, quiet = false } = {}) {
    const answer = await reach(method, path + search(query), body, signal);
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const problem = await problemOf(answer);
    if (answer.status === 401 && !quiet) onLost();
    throw problem;
  }
  return {
    get: (path, query, options) => call("GET", path, { ...options, query }),
    post: (path, body, options) => call("POST", path, { ...options, body: body ?? {} }),
    patch: (path, body) => call("PATCH", path, { body }),
    remove: (path, options) => call("DELETE", path, options),
  };
}

async function reach(method, url, body, signal) {
  const given = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  try {
    return await fetch(url, { method, signal, ...given });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("network", "The service cannot be reached.");
  }
}

async function problemOf(answer) {
  try {
    const { error } = await answer.json();
    return new Problem(error.code, error.message, answer.status);
  } catch {
    return new Problem("internal", `HTTP ${answer.status}`, answer.status);
  }
}

/** The query of an address; a list is repeated, what is empty is left out. */
export function search(query = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== "" && one != null) given.append(name, one);
  }
  const text = String(given);
  return text && `?${text}`;
}

/** A path with ids that may hold anything. */
export const path = (strings, ...ids) => String.raw({ raw: strings }, ...ids.map(encodeURIComponent));
