// What the page makes of the answers of a real server.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { promisify } from "node:util";

import { overlayAgreement, pixelsOf } from "./pixels.mjs";
import { ask, assertQuiet, choose, example, open, send, shared, TEXT } from "./setup.mjs";

const EXAMPLES = {
  together: ["Chelsea", "Grace Hopper"], astronaut: ["Eileen Collins"], hopper: ["Grace Hopper"],
  cat: ["Chelsea"], camera: ["Jonas Weber"], coffee: [],
};

test("the page loads from this server alone and complains of nothing", async (t) => {
  // Without the page's policy, which would keep a request to others from being seen here.
  const opened = await open(t, { bypassCSP: true });
  const { page } = opened;
  assert.equal(await page.getByRole("heading", { level: 1 }).count(), 1);
  for (const hidden of ["#problem", "#frame", "#result", "#tools", "#cancel"]) {
    assert.equal(await page.locator(hidden).isVisible(), false, hidden);
  }
  assertQuiet(opened);
});

for (const [name, shown] of Object.entries(EXAMPLES)) {
  test(`the example ${name} shows ${shown.join(" and ") || "nothing"}`, async (t) => {
    const opened = await open(t);
    await example(opened.page, name);
    const labels = opened.page.locator("#labels .name");
    assert.deepEqual(await labels.allTextContents(), shown);
    assert.match(await opened.page.locator("#image-note").textContent(), /CC0|public domain/);
    assertQuiet(opened);
  });
}

test("entities are listed and drawn where the server saw them", async (t) => {
  const opened = await open(t);
  const { page } = opened;
  await choose(page, shared.photo);
  await send(page, TEXT);
  const { entities, image } = await ask(TEXT, { mask_format: "rle_counts" });

  assert.deepEqual(await page.locator("#entities .name").allTextContents(), entities.map(({ text }) => text));
  assert.deepEqual(await page.locator("#annotated .type").allTextContents(), entities.map(({ type }) => type));
  const chips = (await page.locator("#annotated").textContent()).replace(/[1-9]| (PER|LOC|ORG|MISC)/g, "");
  assert.equal(chips, TEXT);
  const absent = entities.filter(({ box }) => !box);
  assert.equal(await page.locator("#entities .absent").count(), absent.length);
  assert.equal(await page.locator("#entities .reason").count(), absent.length);
  const status = await page.locator("#status").textContent();
  assert.equal(status, `${entities.length} entities, ${entities.length - absent.length} shown in the picture`);

  const shown = entities.filter(({ box }) => box);
  assert.deepEqual(shown.map(({ text }) => text), ["Eileen Collins"]);
  const drawn = await pixelsOf(page, "#masks");
  assert.deepEqual({ width: drawn.width, height: drawn.height }, image);
  // The outline lies outside the mask.
  assert(overlayAgreement(drawn, shown[0]) > 0.93, `${overlayAgreement(drawn, shown[0])}`);
  const label = await page.locator("#canvas").getAttribute("aria-label");
  assert.equal(label, "Your picture with Eileen Collins marked");
  assertQuiet(opened);
});

test("a text without entities says so", async (t) => {
  const opened = await open(t);
  await choose(opened.page, shared.photo);
  await send(opened.page, "it was really nice and warm");
  assert.equal(await opened.page.getByText("The text names no entity.").isVisible(), true);
  assert.equal(await opened.page.locator("#entities li").count(), 0);
  assertQuiet(opened);
});

test("offsets count code points", async (t) => {
  const { page } = await open(t);
  await choose(page, shared.photo);
  await send(page, `👩‍🚀🚀 ${TEXT} 🎉`);
  const names = await page.locator("#entities .name").allTextContents();
  const chips = await page.locator("#annotated .chip").allTextContents();
  assert.deepEqual(chips.map((chip) => chip.replace(/^\d| [A-Z]+$/g, "")), names);
});

test("JSON and curl give what the server gives with the sliders' thresholds", async (t) => {
  const { page } = await open(t, { permissions: ["clipboard-read", "clipboard-write"] });
  await example(page, "together");
  await page.locator("#threshold").fill("40");
  await page.locator("#min-mask").fill("90");
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "JSON" }).click();
  const json = JSON.parse(await readFile(await (await saved).path(), "utf8"));

  await page.getByRole("button", { name: "Copy as curl" }).click();
  await page.getByText("Copied.").waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const { stdout } = await promisify(execFile)("sh", ["-c", command.replaceAll("curl ", "curl -sS ")], { cwd: tmpdir() });
  const { entities, image } = JSON.parse(stdout);
  assert.deepEqual(json.entities, entities);
  assert.deepEqual(json.image, image);
  assert.deepEqual(json.entities.map(({ groundable }) => groundable), [true, true, false]);
  assert.deepEqual(json.entities.map(({ mask }) => Boolean(mask)), [true, false, false]);
});

test("cut-outs are transparent around the entity, and the whole picture has its size", async (t) => {
  const { page } = await open(t);
  await example(page, "cat");
  const cut = await savedPng(page, "Cut out Chelsea as a PNG");
  assert.equal(cut.name, "Chelsea.png");
  assert(cut.transparent > 0.01 && cut.transparent < 0.9, `${cut.transparent}`);
  const whole = await savedPng(page, "Picture with marks");
  assert.deepEqual([whole.width, whole.height, whole.transparent], [451, 300, 0]);
});

async function savedPng(page, button) {
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: button }).click();
  const download = await saved;
  const data = (await readFile(await download.path())).toString("base64");
  const seen = await page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    let clear = 0;
    for (let at = 3; at < data.length; at += 4) clear += data[at] === 0 ? 1 : 0;
    return { width, height, transparent: clear / (width * height) };
  }, data);
  return { ...seen, name: download.suggestedFilename() };
}

test("the API's documentation comes from this server alone", async (t) => {
  const opened = await open(t, { path: "/docs" });
  await opened.page.getByText("/v1/smner:batch", { exact: true }).waitFor();
  assertQuiet(opened);
});
