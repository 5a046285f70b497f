// Can it be read, reached and seen: WCAG by axe-core, the widths of screens, colours.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { test } from "node:test";

import { contrast } from "./pixels.mjs";
import { refuse, script } from "./scripted.mjs";
import { choose, example, open, send, shared, TEXT } from "./setup.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate((tags) => window.axe.run({ runOnly: tags }), TAGS);
  return found.violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
}

for (const colorScheme of ["light", "dark"]) {
  for (const width of [320, 1280]) {
    test(`axe-core finds nothing in ${colorScheme} mode, ${width} pixels wide`, async (t) => {
      const { page } = await open(t, { colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      assert.deepEqual(await violations(page), []);
      await example(page, "together");
      assert.deepEqual(await violations(page), []);
      await page.locator("#threshold").fill("0");
      await page.locator("#labels button").first().click();
      assert.deepEqual(await violations(page), []);
      await script(t, page, (_, response) => refuse(response, { status: 429, code: "overloaded", retry_after_ms: 60_000 }));
      await send(page, TEXT);
      assert.deepEqual(await violations(page), []);
    });
  }

  test(`everything can be read in ${colorScheme} mode`, async (t) => {
    const { page } = await open(t, { colorScheme });
    await example(page, "astronaut");
    await page.locator("#threshold").fill("20");
    const readable = ["h1", "form label", "#status", ".pick", ".kind", ".chip", ".chip.absent", ".label", "#send", "nav a", ".scores dt"];
    for (const selector of readable) {
      const { ratio, ground } = await contrast(page, selector);
      assert(ratio >= 4.5, `${selector}: ${ratio}`);
      if (selector === "h1") assert.equal(ground < 0.2, colorScheme === "dark", `${ground}`);
    }
  });
}

/** Pairs of elements with words or controls that lie over one another, and those outside the screen. */
function misplaced(page) {
  return page.evaluate(() => {
    const selector = "h1, h2, legend, .brand, nav a, .hero p, .button, textarea, .slider, input[type=range], .check, .step, .status, .chip, .pick, .kind, .expression, .reason, .scores, .timings, .note, .stage, footer p";
    const visible = [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
    const boxes = visible.map((element) => ({ name: `${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}`, element, areas: [...element.getClientRects()] }));
    const outside = boxes.filter(({ areas }) => areas.some((area) => area.left < -0.5 || area.right > innerWidth + 0.5));
    const over = (one, other) => one.left < other.right - 1 && other.left < one.right - 1 && one.top < other.bottom - 1 && other.top < one.bottom - 1;
    const pairs = boxes.flatMap((one, at) => boxes.slice(at + 1)
      .filter((other) => !one.element.contains(other.element) && !other.element.contains(one.element))
      .filter((other) => one.areas.some((area) => other.areas.some((another) => over(area, another))))
      .map((other) => `${one.name} over ${other.name}`));
    return [...outside.map(({ name }) => `outside: ${name}`), ...pairs];
  });
}

for (const width of [320, 390, 768, 1024, 1280, 1920]) {
  test(`nothing overlaps or sticks out, ${width} pixels wide`, async (t) => {
    const viewport = { width, height: 800 };
    const { page } = await open(t, { viewport, isMobile: width < 500, hasTouch: width < 500 });
    const scroll = () => page.evaluate(() => document.documentElement.scrollWidth);
    assert.equal(await scroll(), width);
    assert.deepEqual(await misplaced(page), []);
    await choose(page, { ...shared.photo, name: `${"a-very-long-name-".repeat(8)}.png` });
    await send(page, `${TEXT} with ${"Llanfairpwllgwyngyll".repeat(8)}`);
    await page.locator("#threshold").fill("0");
    // Further down the picture is meant to lie over what was scrolled by.
    await page.evaluate(() => scrollTo(0, 0));
    assert.equal(await scroll(), width);
    assert.deepEqual(await misplaced(page), []);
    const frame = await page.locator("#frame").boundingBox();
    assert(frame.width > 200 && frame.x >= 0 && frame.x + frame.width <= width);
  });
}

test("on a phone the picture stays in sight beside its words", async (t) => {
  const { page } = await open(t, { viewport: { width: 390, height: 800 }, isMobile: true, hasTouch: true });
  assert.equal(await page.getByText("Take a photo").isVisible(), true);
  await example(page, "together");
  await page.locator("#entities li").last().scrollIntoViewIfNeeded();
  const frame = await page.locator("#frame").boundingBox();
  assert(frame.y >= 0 && frame.y + frame.height <= 800, JSON.stringify(frame));
  await page.locator("#annotated button").first().focus();
  const [word, stage] = [await page.locator("#annotated button").first().boundingBox(), await page.locator("#stage").boundingBox()];
  assert(word.y >= stage.y + stage.height, "what has the focus is not covered");
});

test("labels of boxes at the same place do not cover one another", async (t) => {
  const { page } = await open(t, { viewport: { width: 320, height: 640 } });
  await example(page, "coffee");
  await page.locator("#threshold").fill("0");
  const areas = await page.locator("#labels button").evaluateAll((labels) => labels.map((label) => label.getBoundingClientRect().toJSON()));
  assert.equal(areas.length, 4);
  areas.forEach((one, at) => areas.slice(at + 1).forEach((other) => {
    const over = one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
    assert(!over, JSON.stringify([one, other]));
  }));
});

test("the picture stays where it is while an answer comes", async (t) => {
  const { page } = await open(t);
  const places = () => page.evaluate(() => ["#stage", "#text"].map((selector) => {
    const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
    return { x, y: y + scrollY, width, height };
  }));
  const before = await places();
  await example(page, "together");
  assert.deepEqual(await places(), before);
  const frame = await page.locator("#stage").boundingBox();
  assert(frame.y >= 0 && frame.y + frame.height <= page.viewportSize().height, "in sight");
});

/** Vienot, Brettel and Mollon (1999), on linear light: protanopia and deuteranopia. */
const BLINDNESS = {
  none: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protan: [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
  deutan: [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
};

test("the colours of types can be told apart, by the colour-blind, too", async (t) => {
  const { page } = await open(t);
  const colours = await page.evaluate(async () => {
    const { looksOf } = await import("/static/colours.js");
    return looksOf([{ type: "PER" }, { type: "LOC" }, { type: "ORG" }, { type: "MISC" }]).map(({ colour }) => colour);
  });
  for (const [name, matrix] of Object.entries(BLINDNESS)) {
    const seen = colours.map((colour) => lab(matrix.map((row) => dot(row, linear(colour)))));
    seen.forEach((one, at) => seen.slice(at + 1).forEach((other, next) => {
      const distance = Math.hypot(...one.map((value, axis) => value - other[axis]));
      // 2.3 is just noticeable; a few times that is plain to see side by side.
      assert(distance > 12, `${name}: ${colours[at]} and ${colours[at + 1 + next]}: ${distance}`);
    }));
  }
});

const dot = (one, other) => one.reduce((sum, value, at) => sum + value * other[at], 0);

function linear(colour) {
  const parts = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255);
  return parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
}

function lab(rgb) {
  const rows = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]];
  const white = [0.9505, 1, 1.089];
  const [x, y, z] = rows.map((row, at) => Math.cbrt(Math.max(0, dot(row, rgb)) / white[at]));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}
