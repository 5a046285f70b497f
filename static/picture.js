// A chosen file: its pixels, and what is sent of it.

import { ProblemError } from "./api.js";

/**
 * @typedef {import("./api.js").Info} Info
 * @typedef {object} Picture
 * @property {Blob} file what is sent
 * @property {string} name
 * @property {ImageBitmap} bitmap upright, as large as what is sent
 * @property {boolean} isScaled whether what is sent is not the file that was chosen
 * @property {{width: number, height: number}} original
 * @property {string | null} url where the file can be had again, for examples
 * @property {string | null} credit
 */

/** Room in a request for the text and the borders of its parts. */
const REST_BYTES = 64 * 1024;
const QUALITIES = [0.92, 0.8, 0.6];

/**
 * Reads a file and, where it is beyond what the server takes, makes a smaller one.
 * @param {File} file
 * @param {Info} info
 * @param {{url?: string, credit?: string}} [source]
 * @returns {Promise<Picture>}
 */
export async function readPicture(file, info, { url, credit } = {}) {
  const whole = await decode(file);
  const original = { width: whole.width, height: whole.height };
  const share = shareOf(original, info);
  const isSent = share === 1 && file.size <= mostBytes(info) && info.image_formats.includes(file.type);
  const common = { original, url: url ?? null, credit: credit ?? null };
  if (isSent) return { ...common, file, name: nameOf(file), bitmap: whole, isScaled: false };
  const { bitmap, blob } = await shrink(whole, share, mostBytes(info));
  const name = `${nameOf(file).replace(/\.[^.]*$/, "")}.jpg`;
  return { ...common, file: blob, name, bitmap, isScaled: true };
}

/** @param {Blob} file */
async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new ProblemError({ code: "not_a_picture" });
  }
}

/** @param {File} file */
function nameOf(file) {
  return file.name || `picture.${file.type.split("/")[1] ?? "png"}`;
}

/** @param {Info} info */
function mostBytes(info) {
  return Math.max(1, info.limits.max_body_bytes - REST_BYTES);
}

/**
 * By how much the sides must be scaled to be within the limits.
 * @param {{width: number, height: number}} size
 * @param {Info} info
 */
export function shareOf({ width, height }, { limits }) {
  const bySide = limits.max_image_side / Math.max(width, height);
  const byPixels = Math.sqrt(limits.max_image_pixels / (width * height));
  return Math.min(1, bySide, byPixels);
}

/**
 * A JPEG of at most so many bytes: with less quality first, then with fewer pixels.
 * @param {ImageBitmap} whole
 * @param {number} share
 * @param {number} bytes
 */
async function shrink(whole, share, bytes) {
  for (let scale = share; ; scale *= 0.7) {
    const canvas = scaled(whole, scale);
    for (const quality of QUALITIES) {
      const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
      const isSmallest = canvas.width <= 64 || canvas.height <= 64;
      if (blob.size <= bytes || isSmallest) return { blob, bitmap: await createImageBitmap(blob) };
    }
  }
}

/**
 * @param {ImageBitmap} whole
 * @param {number} scale
 */
function scaled(whole, scale) {
  const side = (/** @type {number} */ length) => Math.max(1, Math.floor(length * scale));
  const canvas = new OffscreenCanvas(side(whole.width), side(whole.height));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  // JPEG has no transparency; what shines through is white, as on a page.
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, canvas.width, canvas.height);
  return canvas;
}
