// TypeScript types, generated from the committed document, used by smoke.ts.

import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { ROOT, startServer } from "../common/server.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const PROGRAMS = join(ROOT, "tests/node_modules/.bin");
// In the tree, not in a temporary folder, since the compiled script imports from node_modules.
const GENERATED = join(HERE, "generated");

const run = (program, ...words) => execFileSync(program, words, { stdio: "inherit" });

test("generated TypeScript types describe the server", async (t) => {
  t.after(() => rmSync(GENERATED, { recursive: true, force: true }));
  const document = join(ROOT, "openapi/openapi.json");
  run(join(PROGRAMS, "openapi-typescript"), document, "--output", join(GENERATED, "api.d.ts"));
  run(join(PROGRAMS, "tsc"), "--project", HERE);

  const server = await startServer();
  t.after(server.stop);
  const photo = join(ROOT, "tests/fixtures/astronaut.jpg");
  run(process.execPath, join(GENERATED, "smoke.js"), server.url, photo);
});
