// A running server for the tests that are not written in Rust.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The repository's root, where the server finds `models/nano`. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

// A relative path counts from the repository's root.
const PROGRAM = process.env.RIVEG ?? "target/debug/riveg";
const LONGEST_START_MS = 120_000;

/** Starts a server on a free port; `{url, stop}` once it is ready. */
export async function startServer() {
  const flags = ["serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--log", "warn"];
  // Warming up runs the largest batch, which takes unoptimised code half a minute.
  flags.push("--max-batch", "4");
  // By itself it takes on only as much as it saw itself do while it warmed up.
  flags.push("--max-inflight-gmac", "1000000");
  const child = spawn(PROGRAM, flags, { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("close", resolve));
  const stop = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  try {
    await once(child, "spawn");
    const deadline = AbortSignal.timeout(LONGEST_START_MS);
    const url = await Promise.race([announced(child), failure(deadline)]);
    await ready(url, deadline);
    return { url, stop };
  } catch (error) {
    if (child.pid) await stop();
    throw new Error(`${PROGRAM} (RIVEG names another): ${error.message}`, { cause: error });
  }
}

/** The address in the server's first words, without the slash at the end. */
function announced(child) {
  const lines = createInterface({ input: child.stdout });
  return new Promise((resolve, reject) => {
    // The listener stays: a full pipe would stop the server.
    lines.on("line", (line) => {
      const address = line.match(/http:\/\/[^\s/]+/);
      if (address) resolve(address[0]);
    });
    lines.once("close", () => reject(new Error("it ended before it was ready")));
  });
}

async function ready(url, deadline) {
  for (;;) {
    const response = await fetch(`${url}/readyz`, { signal: deadline }).catch(() => null);
    if (response?.ok) return;
    deadline.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function failure(deadline) {
  return new Promise((_, reject) => {
    deadline.addEventListener("abort", () => reject(new Error("it did not start in time")));
  });
}
