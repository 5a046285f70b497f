// The list of entities: what each is taken for, and how sure the networks are.

import { looksOf, TYPE_NAMES } from "./colours.js";
import { element, make } from "./dom.js";
import { saveCutOut } from "./downloads.js";
import { hasMask, percent, reasonOf, verdictOf } from "./judge.js";
import { active, change, togglePin, watch } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./api.js").Entity} Entity */

const list = element("entities");

/** Readies the list. */
export function initEntities() {
  watch(["answer", "view"], show);
  watch(["hovered", "pinned"], emphasise);
}

/** @param {State} state */
function show(state) {
  const entities = state.answer?.entities ?? [];
  const looks = looksOf(entities);
  const focused = list.contains(document.activeElement) ? document.activeElement?.id : null;
  list.replaceChildren(...entities.map((entity, index) => card(state, entity, index, looks[index].colour)));
  if (focused) document.getElementById(focused)?.focus();
  emphasise(state);
}

/**
 * @param {State} state
 * @param {Entity} entity
 * @param {number} index
 * @param {string} colour
 */
function card(state, entity, index, colour) {
  const item = make("li", `entity ${verdictOf(entity, state.view)}`, head(entity, index), words(entity));
  item.dataset.index = `${index}`;
  item.style.setProperty("--colour", colour);
  const reason = reasonOf(entity, state.view);
  if (reason) item.append(make("p", "reason", reason));
  item.append(scores(entity, verdictOf(entity, state.view)));
  if (isCuttable(entity, state)) item.append(cutOut(entity, index));
  item.addEventListener("pointerenter", () => change({ hovered: index }));
  item.addEventListener("pointerleave", () => change({ hovered: null }));
  return item;
}

/**
 * @param {Entity} entity
 * @param {number} index
 */
function head(entity, index) {
  const button = make("button", "pick", make("span", "number", `${index + 1}`), make("span", "name", entity.text));
  button.type = "button";
  button.id = `pick-${index}`;
  button.addEventListener("click", () => togglePin(index));
  button.addEventListener("focus", () => change({ hovered: index }));
  button.addEventListener("blur", () => change({ hovered: null }));
  return make("div", "head", button, make("span", "kind", kindOf(entity)));
}

/** @param {Entity} entity */
function kindOf({ type, fine_type: fine }) {
  const coarse = TYPE_NAMES[type] ?? type;
  if (!fine || fine.endsWith("_other")) return coarse;
  const words = fine.replaceAll("_", " ");
  return type === "MISC" ? words : `${coarse}, ${words}`;
}

/** @param {Entity} entity */
function words({ expression }) {
  return make("p", "expression", "looked for as “", expression, "”");
}

/**
 * What is not in the picture has no box that could be right.
 * @param {Entity} entity
 * @param {import("./judge.js").Verdict} verdict
 */
function scores(entity, verdict) {
  const isAbsent = verdict === "absent";
  const rows = /** @type {[string, number | null][]} */ ([
    ["name", entity.score], ["shown", entity.entailment_score],
    ["box", isAbsent ? null : entity.box_score], ["mask", isAbsent ? null : entity.mask_score],
  ]);
  return make("dl", "scores", ...rows.map(([label, value]) => score(label, value)));
}

/**
 * @param {string} label
 * @param {number | null} value
 */
function score(label, value) {
  const bar = make("span", "bar");
  bar.style.setProperty("--share", `${value ?? 0}`);
  return make("div", "", make("dt", "", label), make("dd", "", percent(value), bar));
}

/**
 * @param {Entity} entity
 * @param {State} state
 */
function isCuttable(entity, { view }) {
  return verdictOf(entity, view) === "shown" && hasMask(entity, view);
}

/**
 * @param {Entity} entity
 * @param {number} index
 */
function cutOut(entity, index) {
  const button = make("button", "button small", "Cut out");
  button.type = "button";
  button.id = `cut-${index}`;
  button.setAttribute("aria-label", `Cut out ${entity.text} as a PNG`);
  button.addEventListener("click", () => saveCutOut(entity));
  return button;
}

/** @param {State} state */
function emphasise(state) {
  for (const item of /** @type {Iterable<HTMLElement>} */ (list.children)) {
    item.classList.toggle("active", item.dataset.index === `${active(state)}`);
    item.querySelector(".pick")?.setAttribute("aria-pressed", `${item.dataset.index === `${state.pinned}`}`);
  }
}
