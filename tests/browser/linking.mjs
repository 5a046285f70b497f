// Text, list and picture point at one another; switches and sliders act at once.

import assert from "node:assert/strict";
import { test } from "node:test";

import { changedPixels, pixelsOf } from "./pixels.mjs";
import { begin, events, script, tell } from "./scripted.mjs";
import { choose, example, open, send, shared } from "./setup.mjs";

const activeIn = (page) => page.evaluate(() => {
  const index = (selector) => document.querySelector(selector)?.dataset.index ?? null;
  return ["#annotated .active", "#entities .active", "#labels .active", "#boxes .active"].map(index);
});

const all = (index) => [index, index, index, index];

test("pointing at a word, a card or a region brings out the same entity", async (t) => {
  const { page } = await open(t);
  await example(page, "together");
  const plain = await pixelsOf(page, "#masks");
  for (const [index, name] of ["Chelsea", "Grace Hopper"].entries()) {
    for (const selector of [`#annotated [data-index="${index}"]`, `#entities [data-index="${index}"]`, `#labels [data-index="${index}"]`]) {
      await page.locator(selector).hover();
      assert.deepEqual(await activeIn(page), all(`${index}`), `${name} by ${selector}`);
    }
    assert(changedPixels(await pixelsOf(page, "#masks"), plain) > 0, "the others fade");
  }
  await page.mouse.move(0, 0);
  assert.deepEqual(await activeIn(page), all(null));
});

test("pointing at a mask brings out its entity, and a click keeps it", async (t) => {
  const { page } = await open(t, { viewport: { width: 1280, height: 1200 } });
  await example(page, "together");
  const area = await page.locator("#frame").boundingBox();
  const at = [area.x + area.width * 0.25, area.y + area.height * 0.7];
  await page.mouse.move(...at);
  assert.deepEqual(await activeIn(page), all("0"));
  await page.mouse.click(...at);
  await page.mouse.move(0, 0);
  assert.deepEqual(await activeIn(page), all("0"));
  await page.mouse.click(...at);
  await page.mouse.move(0, 0);
  assert.deepEqual(await activeIn(page), all(null));
});

test("a tap keeps an entity on a phone", async (t) => {
  const { page } = await open(t, { viewport: { width: 390, height: 800 }, isMobile: true, hasTouch: true });
  await example(page, "together");
  await page.locator('#annotated [data-index="1"]').tap();
  assert.deepEqual(await activeIn(page), all("1"));
});

test("everything can be reached by keyboard, the regions of the picture, too", async (t) => {
  const { page } = await open(t);
  await page.locator('[data-picture="together"]').focus();
  await page.keyboard.press("Enter");
  await page.locator("#tools:visible").waitFor();
  await page.locator("#labels button").first().focus();
  assert.deepEqual(await activeIn(page), all("0"));
  await page.keyboard.press("Tab");
  assert.deepEqual(await activeIn(page), all("1"));
  await page.keyboard.press("Enter");
  const label = page.locator('#labels [data-index="1"]');
  assert.equal(await label.getAttribute("aria-pressed"), "true");
  await page.locator("#text").focus();
  assert.deepEqual(await activeIn(page), all("1"), "it stays chosen");
});

test("the threshold acts at once, and asks the server nothing", async (t) => {
  const { page } = await open(t);
  await script(t, page, (_, response) => {
    begin(response);
    tell(response, "done", events().done);
    response.end();
  });
  await choose(page, shared.photo);
  await send(page, "Ann and Bob");
  let asked = 0;
  page.on("request", () => { asked += 1; });
  const shown = () => page.locator("#labels button").count();
  assert.equal(await shown(), 1);
  await page.locator("#threshold").fill("0");
  assert.equal(await shown(), 2);
  assert.equal(await page.locator("#entities .absent").count(), 0);
  assert.match(await page.locator("#status").textContent(), /2 shown/);
  await page.locator("#threshold").fill("29");
  assert.equal(await shown(), 1);
  assert.match(await page.locator("#entities .absent .reason").textContent(), /20 % likely.*threshold of 29 %/);
  assert.equal(asked, 0);
});

test("opacity, mask score and switches change the picture", async (t) => {
  const { page } = await open(t);
  await example(page, "cat");
  const masks = () => pixelsOf(page, "#masks");
  const painted = async () => (await masks()).data.filter((value, at) => at % 4 === 3 && value > 0).length;
  const first = await masks();
  await page.locator("#opacity").fill("90");
  assert(changedPixels(await masks(), first) > 0);
  await page.locator("#min-mask").fill("100");
  assert.equal(await painted(), 0);
  assert.match(await page.locator("#entities .reason").first().textContent(), /^No mask/);
  await page.locator("#min-mask").fill("0");
  assert(await painted() > 0);
  await page.getByLabel("Mask", { exact: true }).uncheck();
  assert.equal(await painted(), 0);
  await page.getByLabel("Box", { exact: true }).uncheck();
  assert.equal(await page.locator("#boxes .box").count(), 0);
  await page.getByLabel("Label", { exact: true }).uncheck();
  assert.equal(await page.locator("#labels .name").isVisible(), false);
  assert.equal(await page.locator("#labels .number").isVisible(), true);
});
