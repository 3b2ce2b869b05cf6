/** How the service is, from the frames of /ws/live: load, latencies, health, bridges, training; the newest figures last. */

const MOST_BEATS = 90;
const MOST_LATENCIES = 60;
const MOST_POINTS = 4000;

/** @returns {object} nothing known yet */
export function makeVitals() {
  return {
    engine: null, health: null, release: undefined, bridges: new Map(), run: null, progress: null, curves: new Map(),
    beats: [], latencies: [], memoriesAt: 0, rev: 0,
  };
}

/**
 * Draw a frame into the vitals. Frames of other kinds are ignored.
 * @param {object} vitals
 * @param {object} frame
 */
export function feel(vitals, frame) {
  const handle = HANDLERS[frame.type];
  if (!handle) return;
  handle(vitals, frame);
  vitals.rev += 1;
}

const HANDLERS = {
  snapshot(vitals, { engine, health, run, progress, release, bridges }) {
    Object.assign(vitals, { health, run: run ?? null, progress: progress ?? null, release: release ?? "" });
    vitals.bridges = new Map((bridges ?? []).map((bridge) => [bridge.bridge, { ...bridge, connected: true }]));
    beat(vitals, engine);
  },
  engine: (vitals, frame) => beat(vitals, frame),
  health: (vitals, { health }) => { vitals.health = health; },
  "turn.end"(vitals, { turn, outcome, timing }) {
    if (turn === undefined || outcome !== "replied") return;
    vitals.latencies = [...vitals.latencies, timing].slice(-MOST_LATENCIES);
  },
  "bridge.connected"(vitals, { bridge, self_id, connected }) {
    vitals.bridges.set(bridge, { ...vitals.bridges.get(bridge), bridge, self_id, connected });
  },
  "bridge.status"(vitals, { type, bridge, ...status }) {
    vitals.bridges.set(bridge, { connected: true, ...vitals.bridges.get(bridge), bridge, status });
  },
  "training.run"(vitals, { run }) {
    vitals.run = run;
    if (run.state !== "running") vitals.progress = null;
  },
  "training.progress"(vitals, { type, ...progress }) {
    vitals.progress = progress;
    addPoint(vitals, progress);
  },
  "training.release": (vitals, { release }) => { vitals.release = release ?? ""; },
  "memory.added": memoriesChanged,
  "memory.changed": memoriesChanged,
  "memory.forgotten": memoriesChanged,
};

function memoriesChanged(vitals) {
  vitals.memoriesAt += 1;
}

function beat(vitals, engine) {
  vitals.engine = engine;
  vitals.beats = [...vitals.beats, engine.tokens_s ?? 0].slice(-MOST_BEATS);
}

/** Points of a run's curves, in the order of their steps: {step, loss} by stage. */
export function addPoint(vitals, { run, stage, step, loss }) {
  if (step == null || !Object.keys(loss ?? {}).length) return;
  if (!vitals.curves.has(run)) vitals.curves = new Map([[run, new Map()]]);
  const stages = vitals.curves.get(run);
  const points = stages.get(stage) ?? [];
  if (points.length && points.at(-1).step >= step) return;
  stages.set(stage, [...points, { step, loss }].slice(-MOST_POINTS));
}

/**
 * Points that a run had before one came, put before those that one has seen.
 * @param {object} vitals
 * @param {number} run
 * @param {{stage: string, step: number, loss: object}[]} points
 */
export function addPast(vitals, run, points) {
  const stages = vitals.curves.get(run) ?? new Map();
  for (const stage of new Set(points.map((point) => point.stage))) {
    const past = points.filter((point) => point.stage === stage && point.step != null && point.loss);
    const seen = (stages.get(stage) ?? []).filter(({ step }) => !past.length || step > past.at(-1).step);
    stages.set(stage, [...past.map(({ step, loss }) => ({ step, loss })), ...seen]);
  }
  vitals.curves = new Map([[run, stages]]);
  vitals.rev += 1;
}

/** How long replies took before one came; those that one has seen end are the newer ones. */
export function timed(vitals, turns) {
  const past = turns.filter(({ outcome }) => outcome === "replied").map(({ timing }) => timing);
  vitals.latencies = [...past, ...vitals.latencies].slice(-MOST_LATENCIES);
  vitals.rev += 1;
}

/** The middle one of some numbers; null of none. */
export function median(numbers) {
  if (!numbers.length) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
