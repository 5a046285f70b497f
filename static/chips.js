// The text with its entities as chips.

import { looksOf, TYPE_NAMES } from "./colours.js";
import { element, make } from "./dom.js";
import { verdictOf } from "./judge.js";
import { active, change, togglePin, watch } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./api.js").Entity} Entity */

const line = element("annotated");

/** Readies the text. */
export function initChips() {
  watch(["answer"], show);
  watch(["view"], judge);
  watch(["hovered", "pinned"], emphasise);
}

/** @param {State} state */
function show(state) {
  const { answer, text } = state;
  const entities = answer?.entities ?? [];
  // A chip that has the focus must survive the next stage of the answer.
  if (!isSame(entities)) line.replaceChildren(...pieces(text, entities));
  element("none").hidden = !answer || entities.length > 0;
  judge(state);
  emphasise(state);
}

/** @param {Entity[]} entities */
function isSame(entities) {
  const chips = [...line.querySelectorAll("button")];
  const spans = chips.map((chip) => chip.dataset.span);
  return entities.length > 0 && spans.join() === entities.map(spanOf).join();
}

/** @param {Entity} entity */
function spanOf({ text, start, end, type }) {
  return `${start} ${end} ${type} ${text}`;
}

/**
 * The text, with a chip in place of each entity. Offsets count code points.
 * @param {string} text
 * @param {Entity[]} entities
 */
function pieces(text, entities) {
  const letters = [...text];
  const looks = looksOf(entities);
  /** @type {(string | Node)[]} */
  const parts = [];
  let at = 0;
  entities.forEach((entity, index) => {
    parts.push(letters.slice(at, entity.start).join(""), chip(entity, index, looks[index].colour));
    at = entity.end;
  });
  parts.push(letters.slice(at).join(""));
  return parts;
}

/**
 * @param {Entity} entity
 * @param {number} index
 * @param {string} colour
 */
function chip(entity, index, colour) {
  const type = make("abbr", "type", entity.type);
  type.title = TYPE_NAMES[entity.type] ?? entity.type;
  const made = make("button", "chip", make("span", "number", `${index + 1}`), entity.text, " ", type);
  made.type = "button";
  made.dataset.index = `${index}`;
  made.dataset.span = spanOf(entity);
  made.style.setProperty("--colour", colour);
  made.addEventListener("click", () => togglePin(index));
  made.addEventListener("pointerenter", () => change({ hovered: index }));
  made.addEventListener("pointerleave", () => change({ hovered: null }));
  made.addEventListener("focus", () => change({ hovered: index }));
  made.addEventListener("blur", () => change({ hovered: null }));
  return made;
}

/** @param {State} state */
function judge({ answer, view }) {
  const chips = line.querySelectorAll("button");
  answer?.entities.forEach((entity, index) => {
    chips[index]?.classList.toggle("absent", verdictOf(entity, view) === "absent");
  });
}

/** @param {State} state */
function emphasise(state) {
  for (const made of line.querySelectorAll("button")) {
    made.classList.toggle("active", made.dataset.index === `${active(state)}`);
    made.setAttribute("aria-pressed", `${made.dataset.index === `${state.pinned}`}`);
  }
}
