// What the sliders make of an answer. The server gave everything; this decides what counts.

/**
 * @typedef {import("./api.js").Entity} Entity
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {import("./state.js").View} View
 * @typedef {"pending" | "absent" | "shown"} Verdict
 */

/**
 * Does the picture show the entity? `pending` until the answer has come that far.
 * @param {Entity} entity
 * @param {View} view
 * @returns {Verdict}
 */
export function verdictOf(entity, view) {
  if (entity.entailment_score === null) return "pending";
  return entity.entailment_score >= view.threshold ? "shown" : "absent";
}

/**
 * Whether the entity's mask is good enough.
 * @param {Entity} entity
 * @param {View} view
 */
export function hasMask(entity, view) {
  return entity.mask !== null && (entity.mask_score ?? 0) >= view.minMask;
}

/**
 * Why the entity is not in the picture, or lacks a mask; `null` where there is nothing to say.
 * @param {Entity} entity
 * @param {View} view
 */
export function reasonOf(entity, view) {
  if (verdictOf(entity, view) === "absent") {
    return `Not shown: ${percent(entity.entailment_score)} likely, under the threshold of ${percent(view.threshold)}`;
  }
  if (entity.mask && !hasMask(entity, view)) {
    return `No mask: its score of ${percent(entity.mask_score)} is under ${percent(view.minMask)}`;
  }
  return null;
}

/**
 * The answer that the server gives to the same post with these thresholds.
 * @param {Answer} answer
 * @param {View} view
 * @returns {Answer}
 */
export function judged(answer, view) {
  const entities = answer.entities.map((entity) => {
    if (verdictOf(entity, view) !== "shown") {
      return { ...entity, groundable: false, box: null, box_score: null, mask: null, mask_score: null };
    }
    return hasMask(entity, view) ? entity : { ...entity, mask: null };
  });
  return { ...answer, entities };
}

/** @param {number | null} share */
export function percent(share) {
  if (share === null) return "–";
  // Nearly sure is not sure, and nearly nothing is not nothing.
  if (share > 0 && share < 0.01) return "under 1 %";
  if (share < 1 && share > 0.99) return "over 99 %";
  return `${Math.round(share * 100)} %`;
}
