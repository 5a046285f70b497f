// Masks as COCO writes them: run lengths, column by column, background first.

/**
 * The run lengths in COCO's compressed string.
 * @param {string} text
 * @returns {number[]}
 */
export function runsOf(text) {
  /** @type {number[]} */
  const runs = [];
  let at = 0;
  while (at < text.length) {
    const [value, next] = readNumber(text, at);
    at = next;
    // From the fourth on, numbers are differences to the one two before.
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/**
 * One number and where the next begins: five bits per character, lowest first, bit 6 says that
 * more follow.
 * @param {string} text
 * @param {number} start
 * @returns {[number, number]}
 */
function readNumber(text, start) {
  let value = 0;
  let at = start;
  let shift = 0;
  let more = true;
  while (more && at < text.length) {
    const bits = text.charCodeAt(at) - 48;
    value |= (bits & 31) << shift;
    more = (bits & 32) !== 0;
    at += 1;
    shift += 5;
    if (!more && (bits & 16) !== 0 && shift < 32) value |= -1 << shift;
  }
  return [value, at];
}

/**
 * The mask's pixels, column by column, one byte each: 1 inside, 0 outside.
 * @param {import("./api.js").Mask} mask
 */
export function pixelsOf(mask) {
  const [height, width] = mask.size;
  const pixels = new Uint8Array(width * height);
  const runs = typeof mask.counts === "string" ? runsOf(mask.counts) : mask.counts;
  let at = 0;
  runs.forEach((run, index) => {
    if (index % 2 === 1) pixels.fill(1, at, at + run);
    at += run;
  });
  return pixels;
}
