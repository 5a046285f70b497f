// How a picture comes in: chosen, photographed, dropped, pasted, or one of the examples.

import { fetchInfo, ProblemError } from "./api.js";
import { set } from "./controls.js";
import { element } from "./dom.js";
import { readPicture } from "./picture.js";
import { stop } from "./run.js";
import { change } from "./state.js";

/** @typedef {import("./api.js").Info} Info */
/** @typedef {import("./picture.js").Picture} Picture */

const note = element("image-note");
/** @type {HTMLTextAreaElement} */
const text = element("text");

/** @type {Promise<Info> | null} */
let info = null;

/** What the server says of itself; asked again after it could not be reached. */
function knownInfo() {
  info ??= fetchInfo().catch((error) => {
    info = null;
    throw error;
  });
  return info;
}

/** @param {{send: () => void}} actions */
export function initInput({ send }) {
  for (const id of ["image", "camera"]) {
    /** @type {HTMLInputElement} */
    const field = element(id);
    field.addEventListener("change", () => {
      const [file] = field.files ?? [];
      // The same file chosen again is a change, too.
      if (file) take(file).finally(() => { field.value = ""; });
    });
  }
  document.addEventListener("dragover", onDragOver);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) hint(false); });
  document.addEventListener("drop", onDrop);
  document.addEventListener("paste", onPaste);
  for (const button of document.querySelectorAll("button.example")) {
    button.addEventListener("click", () => takeExample(/** @type {HTMLElement} */ (button), send));
  }
  knownInfo().then(({ entailment_threshold: threshold }) => set({ threshold }), () => {});
}

/** @param {boolean} isOver */
function hint(isOver) {
  element("stage").classList.toggle("over", isOver);
}

/** @param {DragEvent} event */
function onDragOver(event) {
  // A picture that misses its place must not make the browser leave the page.
  event.preventDefault();
  hint(true);
}

/** @param {DragEvent} event */
function onDrop(event) {
  event.preventDefault();
  hint(false);
  const file = firstPicture(event.dataTransfer);
  if (file) take(file);
  else change({ phase: "failed", problem: { code: "not_a_picture" } });
}

/** @param {ClipboardEvent} event */
function onPaste(event) {
  const file = firstPicture(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  take(file);
}

/** @param {DataTransfer | null} transfer */
function firstPicture(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

/** The last picture that was asked for; an earlier one that comes later is dropped. */
let asked = 0;

/**
 * @param {File} file
 * @param {{url?: string, credit?: string}} [source]
 * @returns {Promise<boolean>} whether it is the page's picture now
 */
async function take(file, source) {
  asked += 1;
  const mine = asked;
  stop();
  change({ phase: "idle", answer: null, stage: null, problem: null, hovered: null, pinned: null, text: "" });
  try {
    const picture = await readPicture(file, await knownInfo(), source);
    if (mine !== asked) return false;
    change({ picture });
    note.textContent = describe(picture);
    return true;
  } catch (error) {
    if (mine === asked) change({ phase: "failed", picture: null, problem: problemIn(error) });
    return false;
  }
}

/** @param {unknown} error */
function problemIn(error) {
  return error instanceof ProblemError ? error.problem : { code: "not_a_picture" };
}

/** @param {Picture} picture */
function describe({ name, bitmap, original, isScaled, credit }) {
  const size = sizeOf(bitmap);
  if (credit) return `Picture: ${credit}, ${size}`;
  const isSmaller = isScaled && original.width !== bitmap.width;
  return isSmaller ? `${name}, scaled from ${sizeOf(original)} to ${size}` : `${name}, ${size}`;
}

/** @param {{width: number, height: number}} size */
function sizeOf({ width, height }) {
  return `${width}\u00a0×\u00a0${height}`;
}

/**
 * @param {HTMLElement} button
 * @param {() => void} send
 */
async function takeExample({ dataset }, send) {
  const url = `/static/examples/${dataset.picture}.webp`;
  text.value = dataset.text ?? "";
  try {
    const blob = await (await fetch(url)).blob();
    const file = new File([blob], `${dataset.picture}.webp`, { type: "image/webp" });
    if (!await take(file, { url, credit: dataset.credit })) return;
    element("stage").scrollIntoView({ block: "nearest" });
    send();
  } catch (error) {
    change({ phase: "failed", problem: { code: "unreachable", detail: String(error) } });
  }
}
