// A server and a browser for all tests of the page. CHROMIUM names another program than Debian's;
// SCREENSHOTS=folder keeps a picture of how each test ended.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before } from "node:test";

import { chromium } from "playwright-core";

import { ROOT, startServer } from "../common/server.mjs";
import { toPng } from "./pixels.mjs";

export const TEXT = "Eileen Collins smiles at NASA in Houston";
const LONGEST_WAIT_MS = 60_000;

/** What all tests share, once they run. */
export const shared = { server: null, browser: null, photo: null };

before(async () => {
  shared.server = await startServer();
  shared.browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // Root in a container has no sandbox.
    chromiumSandbox: process.getuid() !== 0,
  });
  const page = await shared.browser.newPage();
  const png = await toPng(page, await readFile(join(ROOT, "tests/fixtures/astronaut.jpg")));
  shared.photo = { name: "astronaut.png", mimeType: "image/png", buffer: png };
  await page.close();
});

after(async () => {
  await shared.browser?.close();
  await shared.server?.stop();
});

/** Opens the page and keeps what it complains about and what it asks of others. */
export async function open(t, { url = shared.server.url, path = "/", prepare, ...options } = {}) {
  const context = await shared.browser.newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(LONGEST_WAIT_MS);
  const complaints = [];
  const foreign = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
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
  await prepare?.(page);
  await page.goto(url + path);
  return { page, complaints, foreign };
}

/** Chooses a file and waits until the page shows it. */
export async function choose(page, file) {
  await page.locator("#image").setInputFiles(file);
  await page.locator("#canvas:visible").waitFor();
}

export function press(page) {
  return page.getByRole("button", { name: "Find entities" }).click();
}

/** Sends the form, and waits until the answer or an error is there. */
export async function send(page, text) {
  await page.locator("#text").fill(text);
  await press(page);
  await ended(page);
}

export function ended(page) {
  return page.locator("#tools:visible, #problem:visible").waitFor();
}

/** Presses one of the examples, and waits until its answer is there. */
export async function example(page, name) {
  await page.locator(`[data-picture="${name}"]`).click();
  await page.locator("#tools:visible").waitFor();
}

export function assertQuiet({ complaints, foreign }) {
  assert.deepEqual({ complaints, foreign }, { complaints: [], foreign: [] });
}

/** What the server itself answers to the photo. */
export async function ask(text, options) {
  const picture = { type: "base64", data: shared.photo.buffer.toString("base64") };
  const response = await fetch(`${shared.server.url}/v1/smner`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text, image: picture, options }),
  });
  return response.json();
}
