// The picture with its marks, all of it in pixels.

import { marksOf, paintMasks } from "./stage.js";
import { place } from "./labels.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./stage.js").Mark} Mark */
/** @typedef {OffscreenCanvasRenderingContext2D} Context */

/**
 * @param {ImageBitmap} bitmap
 * @param {State} state
 */
export function paintAll(bitmap, state) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = /** @type {Context} */ (canvas.getContext("2d"));
  context.drawImage(bitmap, 0, 0);
  const marks = marksOf(state);
  if (state.view.mask) paintMasks(context, marks, state.view, null);
  if (state.view.box) for (const mark of marks) paintBox(context, mark);
  if (state.view.label) paintLabels(context, marks);
  return canvas;
}

/** @param {Context} context */
function unit({ canvas }) {
  return Math.max(1, Math.max(canvas.width, canvas.height) / 500);
}

/**
 * @param {Context} context
 * @param {Mark} mark
 */
function paintBox(context, { entity, colour }) {
  const [x1, y1, x2, y2] = entity.box ?? [0, 0, 0, 0];
  for (const [width, paint] of /** @type {[number, string][]} */ ([[3.5, "#ffffff"], [2, colour]])) {
    context.lineWidth = unit(context) * width;
    context.strokeStyle = paint;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
}

/**
 * @param {Context} context
 * @param {Mark[]} marks
 */
function paintLabels(context, marks) {
  const height = unit(context) * 15;
  context.font = `600 ${height * 0.7}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  /** @type {import("./labels.js").Area[]} */
  const taken = [];
  for (const { entity, index, colour } of marks) {
    const words = `${index + 1}  ${entity.text}`;
    const width = Math.min(context.measureText(words).width + height * 0.8, context.canvas.width);
    const [left, top] = entity.box ?? [0, 0];
    const area = place({ left, top, width, height }, context.canvas, taken);
    taken.push(area);
    context.fillStyle = colour;
    context.fillRect(area.left, area.top, width, height);
    context.fillStyle = "#ffffff";
    context.fillText(words, area.left + height * 0.4, area.top + height / 2, width - height * 0.8);
  }
}
