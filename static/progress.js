// How far the answer is, and what went wrong.

import { counted, element, make } from "./dom.js";
import { verdictOf } from "./judge.js";
import { current, watch } from "./state.js";
import { inWords, isWorthAnotherTry } from "./words.js";

/** @typedef {import("./state.js").State} State */

/** What is done once a stage has come, and what the server does next, in words. */
const STEPS = /** @type {const} */ ([
  ["recognized", "Names", "Reading the text…"],
  ["entailed", "Shown?", "Looking for them in the picture…"],
  ["grounded", "Boxes", "Finding where they are…"],
  ["segmented", "Masks", "Finding their pixels…"],
]);

const list = element("steps");
const status = element("status");
/** @type {HTMLInputElement} */
const auto = element("auto");
/** @type {HTMLButtonElement} */
const again = element("again");

/** @param {{send: () => void}} actions */
export function initProgress({ send }) {
  list.append(...STEPS.map(([, label]) => make("li", "step", label)));
  again.addEventListener("click", send);
  watch(["phase", "stage"], showSteps);
  watch(["phase", "stage", "view"], (state) => { status.textContent = statusOf(state); });
  watch(["problem"], (state) => showProblem(state, send));
}

/** @param {State} state */
function showSteps({ phase, stage }) {
  const reached = stage === "done" ? STEPS.length : STEPS.findIndex(([name]) => name === stage) + 1;
  [...list.children].forEach((step, index) => {
    step.classList.toggle("done", index < reached);
    const isNow = phase === "working" && index === reached;
    step.classList.toggle("now", isNow);
    if (isNow) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
}

/** @param {State} state */
function statusOf(state) {
  const { phase, stage, answer } = state;
  if (phase === "cancelled") return "Cancelled.";
  if (phase === "done") return summary(state);
  if (phase !== "working") return "";
  if (!stage || !answer) return STEPS[0][2];
  const next = STEPS[STEPS.findIndex(([name]) => name === stage) + 1];
  const found = counted(answer.entities.length, "name", "names");
  return next ? `${found} found. ${next[2]}` : `${found} found.`;
}

/** @param {State} state */
function summary({ answer, view }) {
  const entities = answer?.entities ?? [];
  const shown = entities.filter((entity) => verdictOf(entity, view) === "shown").length;
  return `${counted(entities.length, "entity", "entities")}, ${shown} shown in the picture`;
}

/** @type {ReturnType<typeof setInterval> | undefined} */
let ticking;

/**
 * @param {State} state
 * @param {() => void} send
 */
function showProblem({ problem }, send) {
  clearInterval(ticking);
  element("problem").hidden = !problem;
  element("error").textContent = problem ? inWords(problem) : "";
  element("countdown").hidden = true;
  element("by-itself").hidden = true;
  again.hidden = !problem || !isWorthAnotherTry(problem);
  if (problem?.retry_after_ms) countDown(Date.now() + problem.retry_after_ms, send);
}

/**
 * Counts until a new attempt makes sense, and makes it where the reader wants that.
 * @param {number} until
 * @param {() => void} send
 */
function countDown(until, send) {
  const countdown = element("countdown");
  const tick = () => {
    const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
    countdown.textContent = seconds > 0
      ? `It expects to have room in ${counted(seconds, "second", "seconds")}.`
      : "It should have room now.";
    if (seconds > 0) return;
    clearInterval(ticking);
    if (auto.checked && current().phase === "failed") send();
  };
  countdown.hidden = false;
  element("by-itself").hidden = false;
  ticking = setInterval(tick, 250);
  tick();
}
