// The server, as the page sees it: its limits, and the stream of an answer.

import { eventsOf } from "./sse.js";

/**
 * @typedef {{size: [number, number], counts: string | number[]}} Mask
 * @typedef {"PER" | "LOC" | "ORG" | "MISC"} EntityType
 * @typedef {object} Entity
 * @property {string} text
 * @property {EntityType} type
 * @property {number} start first code point
 * @property {number} end one past the last code point
 * @property {number} score
 * @property {string | null} fine_type
 * @property {string} expression
 * @property {boolean | null} groundable
 * @property {number | null} entailment_score
 * @property {[number, number, number, number] | null} box
 * @property {number | null} box_score
 * @property {Mask | null} mask
 * @property {number | null} mask_score
 * @typedef {{width: number, height: number}} Size
 * @typedef {object} Answer
 * @property {string} id
 * @property {{name: string, version: string}} pack
 * @property {Size | null} image
 * @property {Entity[]} entities
 * @property {Record<string, number>} [timings_ms] with the last event only
 * @typedef {object} Limits
 * @property {number} max_body_bytes
 * @property {number} max_image_side
 * @property {number} max_image_pixels
 * @property {number} max_text_chars
 * @typedef {{limits: Limits, entailment_threshold: number, image_formats: string[]}} Info
 * @typedef {object} Problem
 * @property {number} [status]
 * @property {string} [code]
 * @property {string} [title]
 * @property {string} [detail]
 * @property {string} [instance]
 * @property {number} [retry_after_ms]
 * @typedef {Partial<Entity> & {index: number}} Finding
 * @typedef {"recognized" | "entailed" | "grounded" | "segmented" | "done"} Stage
 */

/** What went wrong, as the server or this file says it. */
export class ProblemError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail ?? problem.title ?? problem.code ?? "unknown");
    this.problem = problem;
  }
}

/** @returns {Promise<Info>} */
export async function fetchInfo() {
  const response = await reach("/v1/info", {});
  if (!response.ok) throw new ProblemError(await problemOf(response));
  return response.json();
}

/**
 * Every entity is grounded and segmented, shown or not, so that the page can apply any threshold by
 * itself, at once and without asking again.
 */
const EVERYTHING = JSON.stringify({ entailment_threshold: 0, min_mask_score: 0 });

/**
 * Sends a post and hands on each stage of the answer as it comes; ends with the stage `done`.
 * @param {{file: Blob, name: string, text: string}} post
 * @param {{signal: AbortSignal, onStage: (stage: Stage, data: any) => void}} options
 * @throws {ProblemError}
 */
export async function streamAnswer(post, { signal, onStage }) {
  const body = new FormData();
  body.append("image", post.file, post.name);
  body.append("text", post.text);
  body.append("options", EVERYTHING);
  const response = await reach("/v1/smner:stream", { method: "POST", body, signal });
  if (!response.ok || !response.body) throw new ProblemError(await problemOf(response));
  let isDone = false;
  for await (const { name, data } of events(response.body, signal)) {
    if (name === "error") throw new ProblemError(data);
    onStage(/** @type {Stage} */ (name), data);
    isDone = name === "done";
  }
  if (!isDone) throw new ProblemError({ code: "broken_off" });
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @param {AbortSignal} signal
 */
async function* events(body, signal) {
  try {
    for await (const { name, data } of eventsOf(body)) yield { name, data: JSON.parse(data) };
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new ProblemError({ code: "broken_off", detail: String(error) });
  }
}

/**
 * @param {string} path
 * @param {RequestInit} init
 */
async function reach(path, init) {
  try {
    return await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw init.signal.reason;
    throw new ProblemError({ code: "unreachable", detail: String(error) });
  }
}

/**
 * The problem document of a refusal; `Retry-After` counts where the document says nothing.
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("retry-after"));
  const waiting = seconds > 0 ? { retry_after_ms: seconds * 1000 } : {};
  return { status: response.status, ...waiting, ...told };
}
