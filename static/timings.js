// Where the time went, stage by stage.

import { element, make } from "./dom.js";
import { watch } from "./state.js";

/** In the order in which the server goes through them. */
const STAGES = [
  ["decode", "Decode"], ["queue", "Queue"], ["recognize", "Recognise"], ["entail", "Entail"],
  ["ground", "Ground"], ["segment", "Segment"],
];

/** Readies the table. */
export function initTimings() {
  watch(["answer", "roundTrip"], ({ answer, roundTrip }) => show(answer?.timings_ms, roundTrip));
}

/**
 * @param {Record<string, number> | undefined} timings
 * @param {number} roundTrip
 */
function show(timings, roundTrip) {
  if (!timings) return;
  const known = STAGES.filter(([name]) => typeof timings[name] === "number");
  const whole = Math.max(timings.total ?? 0, known.reduce((sum, [name]) => sum + timings[name], 0));
  let begun = 0;
  const rows = known.map(([name, label]) => {
    const row = rowOf(label, timings[name], begun / whole, timings[name] / whole);
    begun += timings[name];
    return row;
  });
  element("timings").replaceChildren(...rows);
  const there = `${milliseconds(timings.total ?? whole)} in the server`;
  element("total").textContent = roundTrip ? `${there}, ${milliseconds(roundTrip)} with the way there and back` : there;
}

/**
 * @param {string} label
 * @param {number} time
 * @param {number} from share of the whole at which it begins
 * @param {number} share
 */
function rowOf(label, time, from, share) {
  const bar = make("span", "lane", make("span", "span"));
  bar.style.setProperty("--from", `${from}`);
  bar.style.setProperty("--share", `${share}`);
  const head = make("th", "", label);
  head.scope = "row";
  return make("tr", "", head, make("td", "wide", bar), make("td", "figure", milliseconds(time)));
}

/** @param {number} time */
function milliseconds(time) {
  return `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}
