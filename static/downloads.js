// What the reader can take along: cut-outs, the picture with its marks, JSON, and the request.

import { curlOf } from "./curl.js";
import { element } from "./dom.js";
import { shapeOf } from "./draw.js";
import { judged } from "./judge.js";
import { paintAll } from "./overlay.js";
import { current } from "./state.js";

/** @typedef {import("./api.js").Entity} Entity */

/** Readies the buttons. */
export function initDownloads() {
  element("save-overlay").addEventListener("click", saveOverlay);
  element("save-json").addEventListener("click", saveJson);
  element("copy-curl").addEventListener("click", copyCurl);
}

/**
 * The entity's pixels on a transparent ground, cut to its mask.
 * @param {Entity} entity
 */
export async function saveCutOut(entity) {
  const { picture } = current();
  if (!picture || !entity.mask) return;
  const shape = shapeOf(entity.mask, picture.bitmap, "#000000");
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (shape.getContext("2d"));
  context.globalCompositeOperation = "source-in";
  context.drawImage(picture.bitmap, 0, 0, shape.width, shape.height);
  const { left, top, width, height } = boundsOf(context);
  const cut = new OffscreenCanvas(width, height);
  cut.getContext("2d")?.drawImage(shape, -left, -top);
  save(await cut.convertToBlob({ type: "image/png" }), `${fileName(entity.text)}.png`);
}

/** @param {OffscreenCanvasRenderingContext2D} context */
function boundsOf(context) {
  const { width, height } = context.canvas;
  const { data } = context.getImageData(0, 0, width, height);
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] === 0) continue;
    const pixel = (at - 3) / 4;
    const x = pixel % width;
    const y = (pixel - x) / width;
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
  }
  return right > left ? { left, top, width: right - left, height: bottom - top } : { left: 0, top: 0, width, height };
}

async function saveOverlay() {
  const state = current();
  if (!state.picture || !state.answer) return;
  const canvas = paintAll(state.picture.bitmap, state);
  save(await canvas.convertToBlob({ type: "image/png" }), "riveg.png");
}

function saveJson() {
  const { answer, view } = current();
  if (!answer) return;
  const text = JSON.stringify(judged(answer, view), null, 2);
  save(new Blob([text], { type: "application/json" }), "riveg.json");
}

async function copyCurl() {
  const { picture, text, view } = current();
  if (!picture) return;
  const command = curlOf({ picture, text, view, origin: location.origin });
  const note = picture.isScaled && !picture.url
    ? "Copied. The picture was scaled down here; the file itself may be too large for the server."
    : "Copied.";
  try {
    await navigator.clipboard.writeText(command);
    element("copied").textContent = note;
  } catch {
    // Without https there is no clipboard; the reader can still mark the words.
    element("copied").textContent = command;
  }
}

/** @param {string} text */
function fileName(text) {
  return text.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "entity";
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser reads the blob after this turn.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
