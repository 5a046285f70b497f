// The picture with what was found in it.

import { looksOf } from "./colours.js";
import { element, make } from "./dom.js";
import { layersOf, screenSize } from "./draw.js";
import { hasMask, percent, verdictOf } from "./judge.js";
import { placeLabels } from "./labels.js";
import { pixelsOf } from "./rle.js";
import { active, change, current, togglePin, watch } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./api.js").Entity} Entity */
/** @typedef {{entity: Entity, index: number, colour: string, hatch: number}} Mark */

const frame = element("frame");
/** @type {HTMLCanvasElement} */
const canvas = element("canvas");
/** @type {HTMLCanvasElement} */
const masks = element("masks");
const boxes = element("boxes");
const labels = element("labels");

/** Readies the stage. */
export function initStage() {
  watch(["picture"], showPicture);
  watch(["answer", "view"], showMarks);
  watch(["hovered", "pinned"], emphasise);
  watch(["phase"], ({ phase }) => element("stage").classList.toggle("working", phase === "working"));
  frame.addEventListener("pointermove", onMove);
  frame.addEventListener("pointerleave", () => change({ hovered: null }));
  frame.addEventListener("click", onClick);
  new ResizeObserver(() => placeLabels(labels)).observe(frame);
}

/** @param {State} state */
function showPicture({ picture }) {
  frame.hidden = !picture;
  element("empty").hidden = Boolean(picture);
  if (!picture) return;
  const size = screenSize(picture.bitmap);
  for (const layer of [canvas, masks]) Object.assign(layer, size);
  // The only styles that depend on data; set one by one, the policy allows them.
  frame.style.setProperty("--ratio", `${size.width / size.height}`);
  canvas.getContext("2d")?.drawImage(picture.bitmap, 0, 0, size.width, size.height);
}

/**
 * The entities that the picture shows and whose boxes are known, with their looks.
 * @param {State} state
 * @returns {Mark[]}
 */
export function marksOf({ answer, view }) {
  const entities = answer?.entities ?? [];
  const looks = looksOf(entities);
  return entities
    .map((entity, index) => ({ entity, index, ...looks[index] }))
    .filter(({ entity }) => entity.box && verdictOf(entity, view) === "shown");
}

/** @param {State} state */
function showMarks(state) {
  const marks = marksOf(state);
  drawMasks(state);
  const size = state.answer?.image;
  const focused = document.activeElement?.closest("#labels button")?.getAttribute("data-index");
  boxes.replaceChildren(...(size && state.view.box ? marks.map((mark) => boxOf(mark, size)) : []));
  labels.replaceChildren(...(size ? marks.map((mark) => labelOf(mark, size, state)) : []));
  labels.classList.toggle("short", !state.view.label);
  const names = marks.map(({ entity }) => entity.text).join(", ");
  canvas.setAttribute("aria-label", names ? `Your picture with ${names} marked` : "Your picture");
  placeLabels(labels);
  emphasise(state);
  if (focused) /** @type {HTMLElement | null} */ (labels.querySelector(`[data-index="${focused}"]`))?.focus();
}

/** @param {State} state */
function drawMasks(state) {
  const context = masks.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, masks.width, masks.height);
  if (state.view.mask) paintMasks(context, marksOf(state), state.view, active(state));
}

/**
 * @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context
 * @param {Mark[]} marks
 * @param {import("./state.js").View} view
 * @param {number | null} chosen
 */
export function paintMasks(context, marks, view, chosen) {
  for (const { entity, index, ...look } of marks) {
    if (!entity.mask || !hasMask(entity, view)) continue;
    const { fill, outline } = layersOf(entity.mask, look, context.canvas);
    const strength = chosen === null || chosen === index ? 1 : 0.25;
    context.globalAlpha = view.opacity * strength;
    context.drawImage(fill, 0, 0);
    context.globalAlpha = strength;
    context.drawImage(outline, 0, 0);
  }
  context.globalAlpha = 1;
}

/**
 * @param {Mark} mark
 * @param {import("./api.js").Size} size
 */
function boxOf({ entity, index, colour }, { width, height }) {
  const box = make("div", "box");
  const [x1, y1, x2, y2] = entity.box ?? [0, 0, 0, 0];
  box.dataset.index = `${index}`;
  box.style.setProperty("--colour", colour);
  box.style.left = `${(x1 / width) * 100}%`;
  box.style.top = `${(y1 / height) * 100}%`;
  box.style.width = `${((x2 - x1) / width) * 100}%`;
  box.style.height = `${((y2 - y1) / height) * 100}%`;
  return box;
}

/**
 * @param {Mark} mark
 * @param {import("./api.js").Size} size
 * @param {State} state
 */
function labelOf({ entity, index, colour }, { width, height }, state) {
  const name = make("span", "name", entity.text);
  const label = make("button", "label", make("span", "number", `${index + 1}`), " ", name);
  label.type = "button";
  label.dataset.index = `${index}`;
  label.dataset.x = `${(entity.box?.[0] ?? 0) / width}`;
  label.dataset.y = `${(entity.box?.[1] ?? 0) / height}`;
  label.style.setProperty("--colour", colour);
  const says = `${index + 1} ${entity.text}, ${percent(entity.entailment_score)} likely shown`;
  label.setAttribute("aria-label", says);
  label.setAttribute("aria-pressed", `${state.pinned === index}`);
  label.addEventListener("focus", () => change({ hovered: index }));
  label.addEventListener("blur", () => change({ hovered: null }));
  return label;
}

/** @param {State} state */
function emphasise(state) {
  const chosen = active(state);
  for (const mark of /** @type {Iterable<HTMLElement>} */ ([...boxes.children, ...labels.children])) {
    const isIt = mark.dataset.index === `${chosen}`;
    mark.classList.toggle("active", isIt);
    mark.classList.toggle("faded", chosen !== null && !isIt);
    if (mark.matches("button")) mark.setAttribute("aria-pressed", `${mark.dataset.index === `${state.pinned}`}`);
  }
  drawMasks(state);
}

/** @param {PointerEvent} event */
function onMove(event) {
  if (event.pointerType === "touch") return;
  const hovered = entityAt(event);
  if (hovered !== current().hovered) change({ hovered });
}

/** @param {MouseEvent} event */
function onClick(event) {
  const index = entityAt(event);
  if (index !== null) togglePin(index);
  else change({ pinned: null });
}

/**
 * The entity under the pointer: by its label, by its mask, then by the smallest box around it.
 * @param {MouseEvent} event
 * @returns {number | null}
 */
function entityAt(event) {
  const label = /** @type {Element} */ (event.target).closest("[data-index]");
  if (label) return Number(label.getAttribute("data-index"));
  const size = current().answer?.image;
  if (!size) return null;
  const area = frame.getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width) * size.width;
  const y = ((event.clientY - area.top) / area.height) * size.height;
  const around = marksOf(current())
    .filter(({ entity }) => isInside(entity.box, x, y))
    .sort((one, other) => areaOf(one.entity) - areaOf(other.entity));
  const hit = around.find(({ entity }) => isInMask(entity, x, y)) ?? around[0];
  return hit ? hit.index : null;
}

/**
 * @param {Entity["box"]} box
 * @param {number} x
 * @param {number} y
 */
function isInside(box, x, y) {
  return box !== null && x >= box[0] && x < box[2] && y >= box[1] && y < box[3];
}

/** @param {Entity} entity */
function areaOf({ box }) {
  return box ? (box[2] - box[0]) * (box[3] - box[1]) : 0;
}

/** @type {WeakMap<object, Uint8Array>} */
const pixels = new WeakMap();

/**
 * @param {Entity} entity
 * @param {number} x
 * @param {number} y
 */
function isInMask({ mask }, x, y) {
  if (!mask) return false;
  const known = pixels.get(mask) ?? pixelsOf(mask);
  pixels.set(mask, known);
  return known[Math.floor(x) * mask.size[0] + Math.floor(y)] === 1;
}
