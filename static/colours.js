// One hue per type, told apart by the colour-blind, too; entities of one type differ in shade, in
// hatching and by their number.

/** @typedef {import("./api.js").EntityType} EntityType */

/**
 * Dark enough for white letters (4.5 and more), after the hues of Okabe and Ito.
 * @type {Record<EntityType, string[]>}
 */
const SHADES = {
  PER: ["#b34700", "#8a3600", "#a8540f"],
  LOC: ["#00735a", "#004d3c", "#1c7d46"],
  ORG: ["#0062b0", "#003f80", "#3a5fc8"],
  MISC: ["#a3337b", "#6f1d58", "#8f3fb0"],
};

/** @type {Record<EntityType, string>} */
export const TYPE_NAMES = { PER: "person", LOC: "place", ORG: "organisation", MISC: "other" };

/**
 * How the entities look: the colour, and the way in which the mask is hatched.
 * @param {{type: EntityType}[]} entities
 * @returns {{colour: string, hatch: number}[]}
 */
export function looksOf(entities) {
  /** @type {Record<string, number>} */
  const seen = {};
  return entities.map(({ type }, index) => {
    const nth = seen[type] ?? 0;
    seen[type] = nth + 1;
    const shades = SHADES[type] ?? SHADES.MISC;
    return { colour: shades[nth % shades.length], hatch: index % 4 };
  });
}
