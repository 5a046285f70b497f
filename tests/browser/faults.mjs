// The stages of an answer one by one, and everything that can go wrong on the way.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT, startServer } from "../common/server.mjs";
import { begin, events, refuse, script, tell } from "./scripted.mjs";
import { choose, ended, open, press, send, shared } from "./setup.mjs";

const TEXT = "Ann and Bob";

async function ready(t, answer) {
  const opened = await open(t);
  await script(t, opened.page, answer);
  await choose(opened.page, shared.photo);
  await opened.page.locator("#text").fill(TEXT);
  return opened;
}

test("entities appear as they are found", async (t) => {
  let response;
  const { page } = await ready(t, (_, made) => { begin(response = made); });
  const data = events();
  const says = (words) => page.locator("#status").getByText(words).waitFor();
  await press(page);
  await says("Reading the text…");
  tell(response, "recognized", data.recognized);
  await says("2 names found. Looking for them in the picture…");
  assert.equal(await page.locator("#annotated .chip").count(), 2);
  assert.equal(await page.locator("#labels button").count(), 0);
  // In two pieces, as networks do.
  response.write("event: entailed\nda");
  response.write(`ta: ${JSON.stringify(data.entailed)}\n\n`);
  await says("2 names found. Finding where they are…");
  assert.equal(await page.locator("#entities .absent").count(), 1);
  tell(response, "grounded", data.grounded);
  await page.locator("#boxes .box").waitFor();
  assert.equal(await page.locator("#entities .button").count(), 0);
  tell(response, "segmented", data.segmented);
  await page.getByRole("button", { name: "Cut out Ann" }).waitFor();
  assert.equal(await page.locator("#tools").isVisible(), false);
  tell(response, "done", data.done);
  response.end();
  await says("2 entities, 1 shown in the picture");
  assert.equal(await page.locator("#timings tr").count(), 6);
  assert.equal(await page.locator("#steps .done").count(), 4);
});

test("cancelling closes the connection and keeps what was found", async (t) => {
  let closed;
  const isClosed = new Promise((resolve) => { closed = resolve; });
  const { page } = await ready(t, (_, response) => {
    response.on("close", closed);
    begin(response);
    tell(response, "recognized", events().recognized);
  });
  await press(page);
  await page.locator("#annotated .chip").first().waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await isClosed;
  assert.equal(await page.locator("#status").textContent(), "Cancelled.");
  assert.equal(await page.getByRole("button", { name: "Cancel" }).isVisible(), false);
  assert.equal(await page.locator("#problem").isVisible(), false);
  assert.equal(await page.evaluate(() => document.activeElement.id), "send");
});

test("another picture drops the request before", async (t) => {
  let closed;
  const isClosed = new Promise((resolve) => { closed = resolve; });
  const { page } = await ready(t, (_, response) => {
    response.on("close", closed);
    begin(response);
  });
  await press(page);
  await page.getByRole("button", { name: "Cancel" }).waitFor();
  await choose(page, { ...shared.photo, name: "other.png" });
  await isClosed;
  await page.getByText("other.png").waitFor();
  assert.equal(await page.locator("#status").textContent(), "");
  assert.equal(await page.locator("#problem").isVisible(), false);
});

test("a busy server is asked again when its time has come, if the reader wants that", async (t) => {
  let asked = 0;
  const { page } = await ready(t, (_, response) => {
    asked += 1;
    if (asked === 1) return refuse(response, { status: 429, code: "overloaded" }, { "retry-after": "2" });
    begin(response);
    tell(response, "done", events().done);
    return response.end();
  });
  await press(page);
  await page.getByText("It expects to have room in 2 seconds.").waitFor();
  assert.match(await page.getByRole("alert").textContent(), /busy/);
  await page.getByLabel("Try again by itself").check();
  await page.locator("#tools:visible").waitFor();
  assert.equal(asked, 2);
  assert.equal(await page.locator("#problem").isVisible(), false);
});

test("a busy server is not asked again unless the reader wants that", async (t) => {
  let asked = 0;
  const { page } = await ready(t, (_, response) => {
    asked += 1;
    refuse(response, { status: 429, code: "overloaded", retry_after_ms: 300 });
  });
  await press(page);
  await page.getByText("It should have room now.").waitFor();
  await page.waitForTimeout(600);
  assert.equal(asked, 1);
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByText("It should have room now.").waitFor();
  assert.equal(asked, 2);
});

const WORDS = [
  [413, "payload_too_large", /too large/], [415, "unsupported_media_type", /kind of picture/],
  [422, "invalid_input", /did not accept this: a detail\./], [401, "unauthorized", /key/],
  [503, "unavailable", /not ready/], [504, "deadline_exceeded", /too long/], [408, "request_timeout", /too long/],
  [500, "internal", /inside the server.*an-id/], [404, "not_found", /version/], [400, "malformed_request", /could not read/],
  [405, "method_not_allowed", /Load the page again/], [422, "url_input_disabled", /by their address/], [429, "overloaded", /busy/],
];

test("the server has no problem that is missing here", async () => {
  const { components } = JSON.parse(await readFile(join(ROOT, "openapi/openapi.json"), "utf8"));
  assert.deepEqual(WORDS.map(([, code]) => code).sort(), components.schemas.Code.enum.toSorted());
});

test("every problem is told in words", async (t) => {
  let problem;
  const { page } = await ready(t, (_, response) => refuse(response, problem));
  for (const [status, code, words] of WORDS) {
    problem = { status, code };
    await send(page, TEXT);
    await page.getByRole("alert").filter({ hasText: words }).waitFor();
    assert.equal(await page.locator("#tools").isVisible(), false);
  }
});

test("a fault amid the answer is told", async (t) => {
  const { page } = await ready(t, (_, response) => {
    begin(response);
    tell(response, "recognized", events().recognized);
    tell(response, "error", { status: 504, code: "deadline_exceeded", detail: "late", instance: "x" });
    response.end();
  });
  await press(page);
  await ended(page);
  assert.match(await page.getByRole("alert").textContent(), /too long/);
});

test("a connection that breaks is told", async (t) => {
  const { page } = await ready(t, (_, response) => {
    begin(response);
    tell(response, "recognized", events().recognized);
    setTimeout(() => response.destroy(), 100);
  });
  await press(page);
  await ended(page);
  assert.match(await page.getByRole("alert").textContent(), /connection broke/);
});

test("a server that has stopped gives a readable error", async (t) => {
  const short = await startServer();
  t.after(short.stop);
  const { page } = await open(t, { url: short.url });
  await choose(page, shared.photo);
  await short.stop();
  await send(page, TEXT);
  assert.match(await page.getByRole("alert").textContent(), /cannot be reached/);
  assert.equal(await page.getByRole("button", { name: "Try again" }).isVisible(), true);
});
