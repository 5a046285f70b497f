// Masks as layers over the picture: filled, hatched and outlined in the entity's colour.

import { pixelsOf } from "./rle.js";

/**
 * @typedef {import("./api.js").Mask} Mask
 * @typedef {{colour: string, hatch: number}} Look
 * @typedef {{fill: OffscreenCanvas, outline: OffscreenCanvas}} Layers
 * @typedef {OffscreenCanvasRenderingContext2D} Context
 */

/** More pixels than this along a side cost a phone's memory and show nothing more. */
const LONGEST_SIDE = 1280;

/** @type {WeakMap<Mask, {key: string, layers: Layers}>} */
const cache = new WeakMap();

/**
 * As large as the picture, or as is of use on a screen.
 * @param {{width: number, height: number}} picture
 */
export function screenSize({ width, height }) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const side = (/** @type {number} */ length) => Math.max(1, Math.round(length * scale));
  return { width: side(width), height: side(height) };
}

/**
 * The mask's layers at this size; kept while mask, size and look stay.
 * @param {Mask} mask
 * @param {Look} look
 * @param {{width: number, height: number}} size
 */
export function layersOf(mask, look, size) {
  const key = `${size.width} ${size.height} ${look.colour} ${look.hatch}`;
  const known = cache.get(mask);
  if (known?.key === key) return known.layers;
  const shape = shapeOf(mask, size, look.colour);
  const layers = { fill: hatched(shape, look.hatch), outline: outlineOf(shape, look.colour) };
  cache.set(mask, { key, layers });
  return layers;
}

/** @param {{width: number, height: number}} size */
function blank({ width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  return { canvas, context: /** @type {Context} */ (canvas.getContext("2d")) };
}

/**
 * The mask's pixels in one colour, opaque; nothing elsewhere.
 * @param {Mask} mask
 * @param {{width: number, height: number}} size
 * @param {string} colour
 */
export function shapeOf(mask, size, colour) {
  const { canvas, context } = blank(size);
  const image = context.createImageData(size.width, size.height);
  const words = new Uint32Array(image.data.buffer);
  const [height, width] = mask.size;
  const pixels = pixelsOf(mask);
  const rows = nearest(size.height, height);
  const columns = nearest(size.width, width).map((column) => column * height);
  for (let y = 0, at = 0; y < size.height; y += 1) {
    for (let x = 0; x < size.width; x += 1, at += 1) {
      if (pixels[columns[x] + rows[y]]) words[at] = 0xffffffff;
    }
  }
  context.putImageData(image, 0, 0);
  paintInside(context, colour);
  return canvas;
}

/**
 * For each of `count` places the nearest of `of` places.
 * @param {number} count
 * @param {number} of
 */
function nearest(count, of) {
  return Array.from({ length: count }, (_, at) => Math.floor(((at + 0.5) * of) / count));
}

/**
 * @param {Context} context
 * @param {string | CanvasPattern} paint
 */
function paintInside(context, paint) {
  context.globalCompositeOperation = "source-atop";
  context.fillStyle = paint;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}

/** @param {{width: number, height: number}} size */
function lineWidth({ width, height }) {
  return Math.max(1.5, Math.max(width, height) / 400);
}

/** Directions of the hatching's lines in degrees; the first kind has none. */
const DIRECTIONS = [null, 45, -45, 0];

/**
 * @param {OffscreenCanvas} shape
 * @param {number} hatch
 */
function hatched(shape, hatch) {
  const { canvas, context } = blank(shape);
  context.drawImage(shape, 0, 0);
  const direction = DIRECTIONS[hatch];
  const lines = direction === null ? null : context.createPattern(line(lineWidth(shape) * 5), "repeat");
  if (lines && direction !== null) {
    lines.setTransform(new DOMMatrix().rotate(direction));
    paintInside(context, lines);
  }
  return canvas;
}

/**
 * A tile with a white line through it.
 * @param {number} size
 */
function line(size) {
  const side = Math.max(4, Math.round(size));
  const { canvas, context } = blank({ width: side, height: side });
  context.fillStyle = "rgba(255, 255, 255, 0.7)";
  context.fillRect(0, 0, side, Math.max(1, Math.round(side / 5)));
  return canvas;
}

/**
 * A line around the shape, in white and then in its colour, to be seen on any ground.
 * @param {OffscreenCanvas} shape
 * @param {string} colour
 */
function outlineOf(shape, colour) {
  const width = lineWidth(shape);
  const { canvas, context } = blank(shape);
  context.drawImage(grown(shape, width * 1.8, "#ffffff"), 0, 0);
  context.drawImage(grown(shape, width, colour), 0, 0);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(shape, 0, 0);
  return canvas;
}

/**
 * The shape, larger by `by` pixels in every direction.
 * @param {OffscreenCanvas} shape
 * @param {number} by
 * @param {string} colour
 */
function grown(shape, by, colour) {
  const { canvas, context } = blank(shape);
  for (let step = 0; step < 16; step += 1) {
    const angle = (step * Math.PI) / 8;
    context.drawImage(shape, Math.cos(angle) * by, Math.sin(angle) * by);
  }
  paintInside(context, colour);
  return canvas;
}
