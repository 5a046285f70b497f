// The page at `/` in a real browser. CHROMIUM names another program than Debian's;
// SCREENSHOTS=folder keeps a picture of how each test ended.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

import { ROOT, startServer } from "../common/server.mjs";
import { changedPixels, contrast, overlayAgreement, pixelsOf, toPng } from "./pixels.mjs";

const TEXT = "Eileen Collins smiles at NASA in Houston";
const LONGEST_WAIT_MS = 60_000;

let server;
let browser;
let photo;

before(async () => {
  server = await startServer();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // Root in a container has no sandbox.
    chromiumSandbox: process.getuid() !== 0,
  });
  const page = await browser.newPage();
  const png = await toPng(page, await readFile(join(ROOT, "tests/fixtures/astronaut.jpg")));
  photo = { name: "astronaut.png", mimeType: "image/png", buffer: png };
  await page.close();
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Opens a page and keeps what it complains about and what it asks of others. */
async function open(t, { url = server.url, path = "/", ...options } = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(LONGEST_WAIT_MS);
  const complaints = [];
  const foreign = [];
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    const { protocol, origin, href } = new URL(request.url());
    if (!["data:", "blob:"].includes(protocol) && origin !== url) foreign.push(href);
  });
  t.after(async () => {
    const folder = process.env.SCREENSHOTS;
    if (folder) await page.screenshot({ path: join(folder, `${t.name}.png`), fullPage: true });
    await context.close();
  });
  await page.goto(url + path);
  return { page, complaints, foreign };
}

async function choose(page, file) {
  await page.getByLabel("Picture", { exact: true }).first().setInputFiles(file);
}

/** Sends the form; the server's answer, once the page shows it or an error. */
async function send(page, text) {
  await page.getByLabel("Text").fill(text);
  const answered = page.waitForResponse((response) => response.url().endsWith("/v1/smner"));
  await page.getByRole("button", { name: "Find entities" }).click();
  const answer = await (await answered).json();
  await page.locator("#result:visible, #error:visible").waitFor();
  return answer;
}

test("the page loads from this server alone and complains of nothing", async (t) => {
  // Without the page's policy, which would keep a request to others from being seen here.
  const { page, complaints, foreign } = await open(t, { bypassCSP: true });
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "riveg");
  await page.getByRole("button", { name: "Find entities" }).waitFor();
  for (const hidden of ["#error", "#view", "#result"]) {
    assert.equal(await page.locator(hidden).isVisible(), false, hidden);
  }
  assert.deepEqual({ complaints, foreign }, { complaints: [], foreign: [] });
});

test("entities are listed and drawn where the server saw them", async (t) => {
  const { page, complaints, foreign } = await open(t);
  await choose(page, photo);
  await page.locator("#canvas:visible").waitFor();
  const plain = await pixelsOf(page);
  const { entities, image } = await send(page, TEXT);

  const names = await page.locator("#entities .name").allTextContents();
  assert(names.includes("Eileen Collins"), names.join());
  assert.deepEqual(names, entities.map((entity) => entity.text));
  const types = await page.locator("#entities .type").allTextContents();
  assert.deepEqual(types, entities.map((entity) => entity.type));
  const absent = await page.locator("#entities .absent").count();
  assert.equal(absent, entities.filter((entity) => !entity.box).length);
  const status = await page.getByRole("status").textContent();
  assert.match(status, new RegExp(`^${names.length} entit.*${names.length - absent} shown`));

  assert.deepEqual(image, { width: plain.width, height: plain.height });
  const person = await alone("Eileen Collins");
  const drawn = await pixelsOf(page);
  assert(overlayAgreement(plain, drawn, person) > 0.99, "the mask that is drawn is the server's");
  const label = await page.getByRole("img").getAttribute("aria-label");
  assert.match(label, /Eileen Collins/);
  assert.deepEqual({ complaints, foreign }, { complaints: [], foreign: [] });
});

/** What the server says of the one entity that the picture shows, its mask in plain run lengths. */
async function alone(name) {
  const options = { mask_format: "rle_counts" };
  const picture = { type: "base64", data: photo.buffer.toString("base64") };
  const response = await fetch(`${server.url}/v1/smner`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text: TEXT, image: picture, options }),
  });
  const shown = (await response.json()).entities.filter((entity) => entity.box);
  assert.deepEqual(shown.map((entity) => entity.text), [name]);
  return shown[0];
}

test("a text without entities says so", async (t) => {
  const { page, complaints } = await open(t);
  await choose(page, photo);
  await send(page, "it was really nice and warm");
  assert.equal(await page.getByText("The text names no entity.").isVisible(), true);
  assert.equal(await page.locator("#entities li").count(), 0);
  assert.deepEqual(complaints, []);
});

test("a dropped picture is sent, a dropped text is refused", async (t) => {
  const { page, complaints } = await open(t);
  await drop(page, { name: "note.txt", mimeType: "text/plain", buffer: Buffer.from("hello") });
  assert.equal(await page.getByRole("alert").textContent(), "That is not a picture.");
  await drop(page, photo);
  await page.locator("#canvas:visible").waitFor();
  assert.equal(await page.getByRole("alert").isVisible(), false);
  const { entities } = await send(page, TEXT);
  assert(entities.length > 0);
  assert.deepEqual(complaints, []);
});

async function drop(page, { name, mimeType, buffer }) {
  const file = { name, type: mimeType, data: buffer.toString("base64") };
  const dataTransfer = await page.evaluateHandle(({ name, type, data }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    return transfer;
  }, file);
  await page.dispatchEvent("#drop", "drop", { dataTransfer });
}

test("after a failure nothing of an earlier answer is left", async (t) => {
  const { page } = await open(t);
  await choose(page, photo);
  await page.locator("#canvas:visible").waitFor();
  const plain = await pixelsOf(page);
  await send(page, TEXT);
  assert(changedPixels(await pixelsOf(page), plain) > 0);
  const problem = await send(page, " ");
  assert.equal(problem.code, "invalid_input");
  assert.equal(await page.locator("#result").isVisible(), false);
  assert.equal(changedPixels(await pixelsOf(page), plain), 0);
  assert.equal(await page.getByRole("img").getAttribute("aria-label"), "Your picture");
});

test("without a picture the page asks for one", async (t) => {
  const { page, complaints } = await open(t);
  await page.getByLabel("Text").fill(TEXT);
  await page.getByRole("button", { name: "Find entities" }).click();
  assert.equal(await page.getByRole("alert").textContent(), "Choose a picture first.");
  assert.deepEqual(complaints, []);
});

test("a file that is not a picture gives a readable error", async (t) => {
  const { page, complaints } = await open(t);
  await choose(page, { name: "note.png", mimeType: "image/png", buffer: Buffer.from("hello") });
  const problem = await send(page, TEXT);
  assert.equal(problem.status, 415);
  assert.equal(await page.locator("#result").isVisible(), false);
  const error = await page.getByRole("alert").textContent();
  assert(error.includes(problem.detail), error);
  assert.match(error, /JPEG, PNG, WebP/);
  assert.equal(await page.getByRole("button", { name: "Find entities" }).isEnabled(), true);
  // The browser's own note of the answer's status; nothing of the page's.
  assert.equal(complaints.length, 1, complaints.join("\n"));
  assert.match(complaints[0], /^Failed to load resource.* 415 /);

  await choose(page, photo);
  assert.equal(await page.getByRole("alert").isVisible(), false);
});

test("a server that has stopped gives a readable error", async (t) => {
  const short = await startServer();
  t.after(short.stop);
  const { page } = await open(t, { url: short.url });
  await choose(page, photo);
  await page.getByLabel("Text").fill(TEXT);
  await short.stop();
  await page.getByRole("button", { name: "Find entities" }).click();
  await page.getByText("The server could not be reached").waitFor();
  assert.equal(await page.getByRole("button", { name: "Find entities" }).isEnabled(), true);
  assert.equal(await page.locator("#result").isVisible(), false);
});

test("an answer that comes before the picture's pixels is drawn over them", async (t) => {
  const { page, complaints } = await open(t);
  await page.evaluate(() => {
    const real = window.createImageBitmap;
    const shown = new Promise((resolve) => { window.letPixelsCome = resolve; });
    window.createImageBitmap = async (file) => {
      await shown;
      return real(file);
    };
  });
  await choose(page, photo);
  await page.getByLabel("Text").fill(TEXT);
  const answered = page.waitForResponse((response) => response.url().endsWith("/v1/smner"));
  await page.getByRole("button", { name: "Find entities" }).click();
  await (await answered).finished();
  await page.evaluate(() => window.letPixelsCome());
  await page.locator("#result:visible").waitFor();
  const early = await pixelsOf(page);

  const again = await open(t);
  await choose(again.page, photo);
  await again.page.locator("#canvas:visible").waitFor();
  await send(again.page, TEXT);
  assert.equal(changedPixels(early, await pixelsOf(again.page)), 0);
  assert.deepEqual(complaints, []);
});

test("an error of an earlier picture is not told beside another", async (t) => {
  const { page } = await open(t);
  let letGo;
  const held = new Promise((resolve) => { letGo = resolve; });
  await page.route("**/v1/smner", async (route) => {
    await held;
    await route.continue();
  });
  await choose(page, { name: "note.png", mimeType: "image/png", buffer: Buffer.from("hello") });
  await page.getByLabel("Text").fill(TEXT);
  const answered = page.waitForResponse((response) => response.url().endsWith("/v1/smner"));
  await page.getByRole("button", { name: "Find entities" }).click();
  await choose(page, photo);
  await page.locator("#canvas:visible").waitFor();
  letGo();
  assert.equal((await answered).status(), 415);
  await page.locator("#send:enabled").waitFor();
  assert.equal(await page.getByRole("alert").isVisible(), false);
  assert.equal(await page.locator("#canvas").isVisible(), true);
});

test("on a narrow phone nothing is wider than the screen", async (t) => {
  const viewport = { width: 320, height: 640 };
  const { page, complaints } = await open(t, { viewport, isMobile: true, hasTouch: true });
  const width = () => page.evaluate(() => document.documentElement.scrollWidth);
  assert.equal(await width(), viewport.width);
  await choose(page, { ...photo, name: `${"a-very-long-name-".repeat(8)}.png` });
  const { entities } = await send(page, `${TEXT} with ${"Llanfairpwllgwyngyll".repeat(8)}`);
  assert(entities.length > 0);
  assert.equal(await width(), viewport.width);
  const canvas = await page.locator("#canvas").boundingBox();
  assert(canvas.width > 200 && canvas.x + canvas.width <= viewport.width, canvas);
  assert.deepEqual(complaints, []);
});

for (const colorScheme of ["light", "dark"]) {
  test(`everything can be read in ${colorScheme} mode`, async (t) => {
    const { page } = await open(t, { colorScheme });
    await choose(page, photo);
    await send(page, TEXT);
    const readable = ["h1", "label", "#status", ".name", ".detail", ".type", "#send", "nav a"];
    for (const selector of readable) {
      const { ratio, ground } = await contrast(page, selector);
      assert(ratio >= 4.5, `${selector}: ${ratio}`);
      if (selector === "h1") assert.equal(ground < 0.2, colorScheme === "dark", `${ground}`);
    }
    await page.getByLabel("Text").fill(" ");
    await page.getByRole("button", { name: "Find entities" }).click();
    await page.getByRole("alert").waitFor();
    assert((await contrast(page, "#error")).ratio >= 4.5);
  });
}

test("the API's documentation comes from this server alone", async (t) => {
  const { page, complaints, foreign } = await open(t, { path: "/docs" });
  await page.getByText("/v1/smner:batch", { exact: true }).waitFor();
  assert.deepEqual({ complaints, foreign }, { complaints: [], foreign: [] });
});
