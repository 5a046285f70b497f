// A Python client, generated from the committed document, used by smoke.py.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { ROOT, startServer } from "../common/server.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));

test("a generated Python client works", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "riveg-python-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const programs = join(folder, "venv", "bin");
  // The generator calls ruff, which pip installs beside it.
  const env = { ...process.env, PATH: `${programs}${delimiter}${process.env.PATH}` };
  const run = (program, ...words) => execFileSync(program, words, { env, stdio: "inherit" });
  const client = join(folder, "client");

  run("python3", "-m", "venv", join(folder, "venv"));
  const pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"];
  run(join(programs, "python"), ...pip, "-r", join(HERE, "requirements.txt"));
  // A warning would mean that a part of the document was left out.
  const generate = ["generate", "--fail-on-warning", "--output-path", client, "--path"];
  run(join(programs, "openapi-python-client"), ...generate, join(ROOT, "openapi/openapi.json"));
  run(join(programs, "python"), ...pip, client);

  const server = await startServer();
  t.after(server.stop);
  const photo = join(ROOT, "tests/fixtures/astronaut.jpg");
  run(join(programs, "python"), join(HERE, "smoke.py"), server.url, photo);
});
