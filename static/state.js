// What the page knows, and who wants to hear when it changes.

/**
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {import("./api.js").Problem} Problem
 * @typedef {import("./api.js").Stage} Stage
 * @typedef {import("./picture.js").Picture} Picture
 * @typedef {object} View
 * @property {number} threshold an entity is shown from this probability on
 * @property {number} minMask a mask is drawn from this score on
 * @property {number} opacity of masks
 * @property {boolean} mask
 * @property {boolean} box
 * @property {boolean} label
 * @typedef {object} State
 * @property {"idle" | "working" | "done" | "failed" | "cancelled"} phase
 * @property {Picture | null} picture
 * @property {Answer | null} answer what came so far
 * @property {string} text the text that the answer is about
 * @property {Stage | null} stage the last that came
 * @property {Problem | null} problem
 * @property {View} view
 * @property {number | null} hovered the entity that is pointed at
 * @property {number | null} pinned the entity that was chosen
 * @property {number} roundTrip milliseconds from here to there and back
 */

/** @returns {State} */
function initial() {
  return {
    phase: "idle", picture: null, answer: null, text: "", stage: null, problem: null,
    view: { threshold: 0.5, minMask: 0, opacity: 0.4, mask: true, box: true, label: true },
    hovered: null, pinned: null, roundTrip: 0,
  };
}

/** @type {State} */
let state = initial();

/** @type {{keys: (keyof State)[], listener: (state: State) => void}[]} */
const watchers = [];

export function current() {
  return state;
}

/**
 * Changes some of it; each watcher of something that changed is called once.
 * @param {Partial<State>} patch
 */
export function change(patch) {
  const before = state;
  state = { ...state, ...patch };
  for (const { keys, listener } of watchers) {
    if (keys.some((key) => before[key] !== state[key])) listener(state);
  }
}

/**
 * @param {(keyof State)[]} keys
 * @param {(state: State) => void} listener
 */
export function watch(keys, listener) {
  watchers.push({ keys, listener });
}

/**
 * The entity to bring out: the one pointed at, else the one chosen.
 * @param {State} of
 */
export function active(of) {
  return of.hovered ?? of.pinned;
}

/**
 * Chooses an entity, or no more where it was chosen already.
 * @param {number} index
 */
export function togglePin(index) {
  change({ pinned: state.pinned === index ? null : index });
}
