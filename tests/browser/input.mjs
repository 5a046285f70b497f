// How pictures come in, and what becomes of large, turned and broken ones.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../common/server.mjs";
import { assertQuiet, choose, open, press, send, shared, TEXT } from "./setup.mjs";

const note = { name: "note.txt", mimeType: "text/plain", buffer: Buffer.from("hello") };

async function transfer(page, type, file) {
  await page.evaluate(({ type, name, mimeType, base64 }) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type: mimeType }));
    const init = { bubbles: true, cancelable: true };
    const event = type === "paste"
      ? new ClipboardEvent(type, { ...init, clipboardData: data })
      : new DragEvent(type, { ...init, dataTransfer: data });
    document.querySelector("#stage").dispatchEvent(event);
  }, { type, ...file, base64: file.buffer.toString("base64") });
}

for (const type of ["drop", "paste"]) {
  test(`a picture comes in by ${type}`, async (t) => {
    const opened = await open(t);
    const { page } = opened;
    await transfer(page, type, shared.photo);
    await page.locator("#canvas:visible").waitFor();
    await send(page, TEXT);
    assert.deepEqual(await page.locator("#labels .name").allTextContents(), ["Eileen Collins"]);
    assertQuiet(opened);
  });
}

test("a dropped text is refused", async (t) => {
  const { page } = await open(t);
  await transfer(page, "drop", note);
  assert.match(await page.getByRole("alert").textContent(), /^That is not a picture/);
});

test("a file that is not a picture gives a readable error", async (t) => {
  const { page } = await open(t);
  await page.locator("#image").setInputFiles({ ...note, name: "note.png", mimeType: "image/png" });
  await page.locator("#problem:visible").waitFor();
  assert.match(await page.getByRole("alert").textContent(), /not a picture.*JPEG, PNG, WebP/);
  assert.equal(await page.getByRole("button", { name: "Try again" }).isVisible(), false);
  await choose(page, shared.photo);
  assert.equal(await page.getByRole("alert").isVisible(), false);
});

test("without a picture or a text the page asks for one", async (t) => {
  const opened = await open(t);
  const { page } = opened;
  await page.locator("#text").fill(TEXT);
  await press(page);
  assert.equal(await page.getByRole("alert").textContent(), "Choose a picture first.");
  await choose(page, shared.photo);
  await page.locator("#text").fill(" ");
  await press(page);
  assert.match(await page.getByRole("alert").textContent(), /^Write the text/);
  assertQuiet(opened);
});

test("a picture beyond the server's limits is scaled before it is sent", async (t) => {
  const limits = { max_body_bytes: 90_000, max_image_side: 200, max_image_pixels: 20_000, max_text_chars: 100 };
  const info = { limits, entailment_threshold: 0.5, image_formats: ["image/jpeg"] };
  const prepare = (page) => page.route("**/v1/info", (route) => route.fulfill({ json: info }));
  const { page } = await open(t, { prepare });
  await choose(page, shared.photo);
  const size = await page.locator("#canvas").evaluate(({ width, height }) => width * height);
  assert(size <= 20_000 && size > 15_000, `${size}`);
  assert.match(await page.locator("#image-note").textContent(), /scaled from/);
  const posted = page.waitForRequest("**/v1/smner:stream");
  await send(page, TEXT);
  const body = (await posted).postDataBuffer();
  if (body) assert(body.length <= 90_000, `${body.length}`);
});

test("a photo lies as its orientation says", async (t) => {
  const { page } = await open(t);
  const jpeg = await readFile(join(ROOT, "tests/fixtures/astronaut.jpg"));
  await choose(page, { name: "up.jpg", mimeType: "image/jpeg", buffer: jpeg });
  const upright = await page.locator("#canvas").evaluate(({ width, height }) => [width, height]);
  await choose(page, { name: "turned.jpg", mimeType: "image/jpeg", buffer: turned(jpeg) });
  const corner = (canvas) => [canvas.width, canvas.height];
  assert.deepEqual(await page.locator("#canvas").evaluate(corner), upright.toReversed());
});

/** The JPEG with an Exif segment that says: turn by 90 degrees. */
function turned(jpeg) {
  const tiff = Buffer.from("4d4d002a000000080001011200030000000100060000" + "00000000", "hex");
  const exif = Buffer.concat([Buffer.from("Exif\0\0"), tiff]);
  const head = Buffer.from([0xff, 0xe1, 0, exif.length + 2]);
  return Buffer.concat([jpeg.subarray(0, 2), head, exif, jpeg.subarray(2)]);
}
