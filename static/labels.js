// Where the labels of boxes stand: at the box's upper left corner, inside the picture, and never
// over one another.

/**
 * @typedef {{left: number, top: number, width: number, height: number}} Area
 */

/** Pixels between labels that would touch. */
const GAP = 2;

/** @param {HTMLElement} layer with one child for each label */
export function placeLabels(layer) {
  const room = { width: layer.clientWidth, height: layer.clientHeight };
  /** @type {Area[]} */
  const placed = [];
  for (const label of /** @type {Iterable<HTMLElement>} */ (layer.children)) {
    const size = { width: label.offsetWidth, height: label.offsetHeight };
    const corner = { left: Number(label.dataset.x) * room.width, top: Number(label.dataset.y) * room.height };
    const area = place({ ...corner, ...size }, room, placed);
    placed.push(area);
    label.style.left = `${area.left}px`;
    label.style.top = `${area.top}px`;
  }
}

/**
 * The free place nearest below the wished one, which is inside the box at its corner.
 * @param {Area} wish
 * @param {{width: number, height: number}} room
 * @param {Area[]} taken
 * @returns {Area}
 */
export function place(wish, room, taken) {
  const left = clamp(wish.left, 0, room.width - wish.width);
  const lowest = Math.max(0, room.height - wish.height);
  const first = clamp(wish.top, 0, lowest);
  const rows = [first, ...taken.map((area) => area.top + area.height + GAP), ...taken.map((area) => area.top - wish.height - GAP)];
  const free = rows
    .filter((top) => top >= 0 && top <= lowest)
    .filter((top) => !taken.some((area) => overlaps({ ...wish, left, top }, area)))
    .sort((one, other) => Math.abs(one - first) - Math.abs(other - first));
  return { ...wish, left, top: free[0] ?? first };
}

/**
 * @param {Area} one
 * @param {Area} other
 */
function overlaps(one, other) {
  return one.left < other.left + other.width && other.left < one.left + one.width
    && one.top < other.top + other.height && other.top < one.top + one.height;
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function clamp(value, least, most) {
  return Math.max(least, Math.min(value, most));
}
