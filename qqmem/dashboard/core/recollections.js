/** What memories say, by their numbers: fetched together when a recall shows them, and kept for a while. */

const MOST_KEPT = 3000;
const MOST_ASKED = 100;

/**
 * @param {(ids: number[]) => Promise<object[]>} fetchThem
 * @param {() => void} tell called when some have come
 */
export function makeRecollections(fetchThem, tell) {
  const [known, wanted] = [new Map(), new Set()];
  let timer = 0;

  async function fetchWanted() {
    timer = 0;
    const ids = [...wanted].slice(0, MOST_ASKED);
    ids.forEach((id) => wanted.delete(id));
    try {
      const found = new Map((await fetchThem(ids)).map((memory) => [memory.id, memory]));
      for (const id of ids) keep(id, found.get(id) ?? null);
    } catch {
      for (const id of ids) known.delete(id); // asked again when it is shown again
    }
    if (wanted.size) soon();
    tell();
  }

  function keep(id, memory) {
    known.delete(id);
    known.set(id, memory);
    if (known.size > MOST_KEPT) known.delete(known.keys().next().value);
  }

  const soon = () => { timer ||= setTimeout(fetchWanted, 30); };

  return {
    /** A memory; null if it is gone; undefined as long as it is not known, and then it is fetched. */
    get(id) {
      if (!known.has(id)) {
        known.set(id, undefined);
        wanted.add(id);
        soon();
      }
      return known.get(id);
    },
    /** These have changed. */
    forget(ids) {
      for (const id of ids) known.delete(id);
    },
  };
}
