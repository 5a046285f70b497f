// Lighthouse on the page: performance, accessibility and best practices as a visitor's browser on a
// desk and on a phone has them.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { after, before, test } from "node:test";

import lighthouse, { desktopConfig } from "lighthouse";
import { chromium } from "playwright-core";

import { startServer } from "../common/server.mjs";

const LEAST = 0.95;
const onlyCategories = ["performance", "accessibility", "best-practices"];

let server;
let browser;
let port;

before(async () => {
  server = await startServer();
  port = await freePort();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    chromiumSandbox: process.getuid() !== 0,
    args: [`--remote-debugging-port=${port}`],
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const [device, config] of [["desktop", desktopConfig], ["phone", undefined]]) {
  test(`Lighthouse gives 95 and more on a ${device}`, async () => {
    // A test machine's speed says nothing about the page: loading is simulated from what was sent.
    const flags = { port, onlyCategories, logLevel: "error", throttlingMethod: "simulate" };
    const { lhr } = await lighthouse(server.url, flags, config);
    const scores = Object.fromEntries(Object.values(lhr.categories).map(({ id, score }) => [id, score]));
    const faults = Object.values(lhr.audits).filter(({ score, scoreDisplayMode }) => scoreDisplayMode === "binary" && score === 0);
    console.log(`${device}: ${JSON.stringify(scores)}`);
    for (const [id, score] of Object.entries(scores)) {
      assert(score >= LEAST, `${id}: ${score}; ${faults.map(({ title }) => title).join("; ")}`);
    }
  });
}

function freePort() {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}
