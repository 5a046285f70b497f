// The picture with its entities' masks, boxes and labels.

import { pixelsOf } from "./rle.js";

/** More pixels than this along a side cost a phone's memory and show nothing more. */
const LONGEST_SIDE = 1600;

const COLOURS = { PER: "#b3261e", LOC: "#1f6f3d", ORG: "#1a56b0", MISC: "#7a3ba8" };

/** The colour of an entity type, dark enough for white letters. */
export function colourOf(type) {
  return COLOURS[type] ?? "#555555";
}

/** Makes the canvas as large as the picture, or as is of use, and paints the picture. */
export function drawPicture(canvas, bitmap, size) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(size.width, size.height));
  canvas.width = Math.max(1, Math.round(size.width * scale));
  canvas.height = Math.max(1, Math.round(size.height * scale));
  if (bitmap) canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

/** Paints what an answer found over the picture. */
export function drawEntities(canvas, entities, size) {
  const scale = { x: canvas.width / size.width, y: canvas.height / size.height };
  const shown = entities.filter((entity) => entity.box);
  for (const entity of shown) if (entity.mask) drawMask(canvas, entity);
  for (const entity of shown) drawBox(canvas, entity, scale);
  for (const entity of shown) drawLabel(canvas, entity, scale);
}

function drawMask(canvas, entity) {
  const layer = document.createElement("canvas");
  layer.width = canvas.width;
  layer.height = canvas.height;
  const context = layer.getContext("2d");
  const image = context.createImageData(layer.width, layer.height);
  tint(image, entity.mask, channels(colourOf(entity.type)));
  context.putImageData(image, 0, 0);
  canvas.getContext("2d").drawImage(layer, 0, 0);
}

/** Colours the pixels of `image` that lie in the mask, which may be larger than it. */
function tint(image, mask, [red, green, blue]) {
  const [height, width] = mask.size;
  const pixels = pixelsOf(mask);
  for (let y = 0; y < image.height; y += 1) {
    const row = Math.floor(((y + 0.5) * height) / image.height);
    for (let x = 0; x < image.width; x += 1) {
      const column = Math.floor(((x + 0.5) * width) / image.width);
      if (pixels[column * height + row]) {
        image.data.set([red, green, blue, 120], (y * image.width + x) * 4);
      }
    }
  }
}

function channels(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/** The width of lines: as thick on a large canvas shown small as on a small one. */
function lineWidth(canvas) {
  return Math.max(2, Math.max(canvas.width, canvas.height) / 300);
}

function drawBox(canvas, entity, scale) {
  const [x1, y1, x2, y2] = entity.box;
  const context = canvas.getContext("2d");
  context.lineWidth = lineWidth(canvas);
  context.strokeStyle = colourOf(entity.type);
  context.strokeRect(x1 * scale.x, y1 * scale.y, (x2 - x1) * scale.x, (y2 - y1) * scale.y);
}

function drawLabel(canvas, entity, scale) {
  const context = canvas.getContext("2d");
  const height = lineWidth(canvas) * 8;
  context.font = `600 ${height * 0.75}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const width = context.measureText(entity.text).width + height / 2;
  const x = Math.max(0, Math.min(entity.box[0] * scale.x, canvas.width - width));
  const y = Math.max(0, entity.box[1] * scale.y - height);
  context.fillStyle = colourOf(entity.type);
  context.fillRect(x, y, width, height);
  context.fillStyle = "#ffffff";
  context.fillText(entity.text, x + height / 4, y + height / 2);
}
