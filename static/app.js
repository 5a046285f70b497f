// The page: a picture and a text go to the server, its answer is drawn and listed.

import { colourOf, drawEntities, drawPicture } from "./draw.js";

const element = (id) => document.getElementById(id);
const page = {
  form: element("post"), input: element("image"), text: element("text"), send: element("send"),
  drop: element("drop"), name: element("image-name"), status: element("status"),
  error: element("error"), view: element("view"), canvas: element("canvas"),
  result: element("result"), entities: element("entities"), none: element("none"),
  timings: element("timings"),
};

/** The chosen file, and a promise of its pixels, or of null where the browser cannot read them. */
const picture = { file: null, bitmap: null };

async function choose(file) {
  const pixels = file ? createImageBitmap(file).catch(() => null) : null;
  picture.file = file;
  picture.bitmap = pixels;
  page.result.hidden = true;
  page.view.hidden = true;
  showError(null);
  page.name.textContent = file ? (file.name || "pasted picture") : "";
  const bitmap = await pixels;
  // Another file may have been chosen meanwhile.
  if (bitmap && picture.bitmap === pixels) showPlain(bitmap);
}

function showPlain(bitmap) {
  drawPicture(page.canvas, bitmap, bitmap);
  page.canvas.setAttribute("aria-label", "Your picture");
  page.view.hidden = false;
}

function firstPicture(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

function onDrop(event) {
  event.preventDefault();
  page.drop.classList.remove("over");
  const file = firstPicture(event.dataTransfer);
  if (file) take(file);
  else showError("That is not a picture.");
}

function onPaste(event) {
  const file = firstPicture(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  take(file);
}

/** A dropped or pasted file replaces the one in the form's field. */
function take(file) {
  page.input.value = "";
  choose(file);
}

async function onSubmit(event) {
  event.preventDefault();
  if (!picture.file) {
    showError("Choose a picture first.");
    page.input.focus();
    return;
  }
  const sent = { ...picture, text: page.text.value };
  // What became of an earlier picture is not told beside another.
  const isCurrent = () => picture.bitmap === sent.bitmap;
  busy(true);
  // What an earlier answer marked says nothing about this text.
  sent.bitmap.then((bitmap) => { if (bitmap && isCurrent()) showPlain(bitmap); });
  try {
    const [answer, bitmap] = await Promise.all([ask(sent), sent.bitmap]);
    if (isCurrent()) show(answer, bitmap);
  } catch (error) {
    if (isCurrent()) showError(error.message);
  } finally {
    busy(false);
  }
}

function busy(yes) {
  page.send.disabled = yes;
  if (!yes) return;
  showError(null);
  page.result.hidden = true;
  page.status.textContent = "Looking…";
}

/** The server's answer; throws an error whose message is meant for the reader. */
async function ask({ file, text }) {
  const body = new FormData();
  body.append("image", file, file.name || "picture");
  body.append("text", text);
  let response;
  try {
    response = await fetch("/v1/smner", { method: "POST", body });
  } catch {
    throw new Error("The server could not be reached, or it closed the connection.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(inWords(response, answer));
  if (!answer) throw new Error("The server's answer could not be read.");
  return answer;
}

/** A problem (RFC 9457) as a sentence. */
function inWords(response, problem) {
  const what = problem?.detail || problem?.title || `The server answered ${response.status}.`;
  const wait = secondsToWait(response, problem);
  const when = wait === null ? "" : ` Try again in ${wait} ${wait === 1 ? "second" : "seconds"}.`;
  const id = problem?.instance ? ` (request ${problem.instance})` : "";
  return `${what}${when}${id}`;
}

function secondsToWait(response, problem) {
  const milliseconds = problem?.retry_after_ms ?? Number(response.headers.get("retry-after")) * 1000;
  return milliseconds > 0 ? Math.ceil(milliseconds / 1000) : null;
}

function showError(message) {
  page.error.hidden = !message;
  page.error.textContent = message ?? "";
  page.status.textContent = "";
}

function show(answer, bitmap) {
  const shown = answer.entities.filter((entity) => entity.box);
  const total = answer.entities.length;
  const summary = `${total} ${total === 1 ? "entity" : "entities"}, ${shown.length} shown in the picture`;
  drawPicture(page.canvas, bitmap, answer.image);
  drawEntities(page.canvas, answer.entities, answer.image);
  const names = shown.map((entity) => entity.text).join(", ");
  page.canvas.setAttribute("aria-label", names ? `Your picture with ${names} marked` : "Your picture");
  page.entities.replaceChildren(...answer.entities.map(entityItem));
  page.timings.replaceChildren(...Object.entries(answer.timings_ms).flatMap(timingItems));
  page.none.hidden = total > 0;
  page.view.hidden = false;
  page.result.hidden = false;
  page.status.textContent = summary;
}

function entityItem(entity) {
  const item = document.createElement("li");
  item.classList.toggle("absent", !entity.box);
  const type = textElement("span", "type", entity.type);
  type.style.backgroundColor = entity.box ? colourOf(entity.type) : "#6b6b6b";
  item.append(type, textElement("span", "name", entity.text));
  item.append(textElement("span", "detail", details(entity)));
  item.append(textElement("span", "detail", entity.expression));
  return item;
}

function details(entity) {
  const parts = [
    entity.fine_type?.replaceAll("_", " "),
    entity.box ? null : "not shown in the picture",
    score("name", entity.score),
    score("shown", entity.entailment_score),
    score("box", entity.box_score),
    score("mask", entity.mask_score),
  ];
  return parts.filter(Boolean).join(" · ");
}

function score(label, value) {
  return typeof value === "number" ? `${label} ${Math.round(value * 100)} %` : null;
}

function timingItems([stage, milliseconds]) {
  return [textElement("dt", "", stage), textElement("dd", "", milliseconds.toFixed(1))];
}

function textElement(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

page.form.addEventListener("submit", onSubmit);
page.input.addEventListener("change", () => choose(page.input.files[0] ?? null));
page.drop.addEventListener("dragover", () => page.drop.classList.add("over"));
page.drop.addEventListener("dragleave", () => page.drop.classList.remove("over"));
// A picture that misses the field must not make the browser leave the page.
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", onDrop);
document.addEventListener("paste", onPaste);
// A browser may keep the field's file when the page is loaded again.
if (page.input.files[0]) choose(page.input.files[0]);
