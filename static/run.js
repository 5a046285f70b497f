// One request from the press of the button to the last stage of its answer.

import { ProblemError, streamAnswer } from "./api.js";
import { change, current } from "./state.js";

/** @typedef {import("./api.js").Answer} Answer */
/** @typedef {import("./api.js").Entity} Entity */
/** @typedef {import("./api.js").Finding} Finding */
/** @typedef {import("./api.js").Stage} Stage */

/** @type {AbortController | null} */
let running = null;

/** Ends the request, if there is one; the server stops working on it, too. */
export function cancel() {
  if (!running) return;
  stop();
  change({ phase: "cancelled" });
}

/** Drops the request without a word: another picture or another request takes its place. */
export function stop() {
  running?.abort(new DOMException("cancelled", "AbortError"));
  running = null;
}

/**
 * Sends the picture with the text.
 * @param {string} text
 */
export async function run(text) {
  const { picture } = current();
  if (!picture) return change({ phase: "failed", problem: { code: "no_picture" } });
  if (!text.trim()) return change({ phase: "failed", problem: { code: "no_text" } });
  stop();
  const own = new AbortController();
  running = own;
  const begun = performance.now();
  const cleared = { answer: null, stage: null, problem: null, hovered: null, pinned: null };
  change({ phase: "working", text, ...cleared });
  try {
    await streamAnswer({ file: picture.file, name: picture.name, text }, { signal: own.signal, onStage });
    if (running === own) change({ phase: "done", roundTrip: performance.now() - begun });
  } catch (error) {
    if (running === own) change({ phase: "failed", problem: problemIn(error) });
  } finally {
    if (running === own) running = null;
  }
}

/** @param {unknown} error */
function problemIn(error) {
  if (error instanceof ProblemError) return error.problem;
  return { code: "page", detail: `The page made a mistake: ${error}` };
}

/**
 * @param {Stage} stage
 * @param {any} data
 */
function onStage(stage, data) {
  const { answer } = current();
  if (stage === "done") return change({ stage, answer: data });
  if (stage === "recognized") return change({ stage, answer: begin(data) });
  if (answer) change({ stage, answer: withFindings(answer, data.entities) });
}

/**
 * The first part of an answer, with room for what comes later.
 * @param {Answer} data
 * @returns {Answer}
 */
function begin(data) {
  const later = {
    groundable: null, entailment_score: null, box: null, box_score: null, mask: null, mask_score: null,
  };
  return { ...data, entities: data.entities.map((entity) => ({ ...later, ...entity })) };
}

/**
 * @param {Answer} answer
 * @param {Finding[]} findings
 * @returns {Answer}
 */
function withFindings(answer, findings) {
  const entities = [...answer.entities];
  for (const { index, ...found } of findings) {
    if (entities[index]) entities[index] = { ...entities[index], .../** @type {Partial<Entity>} */ (found) };
  }
  return { ...answer, entities };
}
