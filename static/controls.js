// Switches and sliders, which act on what the server gave.

import { element } from "./dom.js";
import { percent } from "./judge.js";
import { change, current, watch } from "./state.js";

/** @typedef {import("./state.js").View} View */

/** @type {{id: string, key: "threshold" | "minMask" | "opacity"}[]} */
const SLIDERS = [
  { id: "threshold", key: "threshold" }, { id: "min-mask", key: "minMask" }, { id: "opacity", key: "opacity" },
];

/** @type {("mask" | "box" | "label")[]} */
const SWITCHES = ["mask", "box", "label"];

/** Readies the controls. */
export function initControls() {
  for (const { id, key } of SLIDERS) {
    /** @type {HTMLInputElement} */
    const slider = element(id);
    slider.addEventListener("input", () => set({ [key]: Number(slider.value) / 100 }));
  }
  for (const key of SWITCHES) {
    /** @type {HTMLInputElement} */
    const box = element(`show-${key}`);
    box.addEventListener("change", () => set({ [key]: box.checked }));
  }
  watch(["view"], ({ view }) => showValues(view));
  showValues(current().view);
  watch(["phase", "answer"], ({ phase, answer }) => {
    element("tools").hidden = phase !== "done" || !answer;
  });
}

/** @param {Partial<View>} part */
export function set(part) {
  change({ view: { ...current().view, ...part } });
}

/** @param {View} view */
function showValues(view) {
  for (const { id, key } of SLIDERS) {
    /** @type {HTMLInputElement} */
    const slider = element(id);
    slider.value = `${Math.round(view[key] * 100)}`;
    slider.setAttribute("aria-valuetext", percent(view[key]));
    element(`${id}-value`).textContent = `${slider.value} %`;
  }
}
