// The masks' decoder, in the browser, against the bytes of pycocotools.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../common/server.mjs";
import { open } from "./setup.mjs";

test("compressed masks are read as pycocotools writes them", async (t) => {
  const golden = JSON.parse(await readFile(join(ROOT, "tests/golden/mask/rle.json"), "utf8"));
  const { page } = await open(t);
  const read = await page.evaluate(async (masks) => {
    const { pixelsOf, runsOf } = await import("/static/rle.js");
    return masks.map((mask) => ({
      runs: runsOf(mask.counts),
      area: pixelsOf(mask).reduce((sum, pixel) => sum + pixel, 0),
      isSame: pixelsOf(mask).join() === pixelsOf({ size: mask.size, counts: mask.runs }).join(),
    }));
  }, golden);
  assert(golden.length > 10);
  read.forEach(({ runs, area, isSame }, at) => {
    assert.deepEqual(runs, golden[at].runs);
    assert.equal(area, golden[at].area);
    assert(isSame);
  });
});
