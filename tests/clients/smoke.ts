// The calls of a user of the generated TypeScript types: `smoke.js URL PICTURE`.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import createClient, { type Client } from "openapi-fetch";

import type { components, paths } from "./generated/api.js";

type Schemas = components["schemas"];
type Api = Client<paths>;

const TEXT = "Eileen Collins smiles at NASA in Houston";
const LINK: Schemas["ImageInput"] = { type: "url", url: "https://a.example/b.jpg" };

async function health(api: Api): Promise<void> {
  const live = await api.GET("/livez");
  assert.equal(live.data?.status, "ok");
  const ready = await api.GET("/readyz");
  assert.equal(ready.data?.status, "ok");
}

async function information(api: Api): Promise<void> {
  const { data } = await api.GET("/v1/info");
  assert(data);
  assert.equal(data.pack.name, "nano");
  assert(data.models.some((model) => model.role === "segmenter"));
  assert(data.mask_formats.includes("rle"));
  assert(data.limits.max_text_chars >= TEXT.length);
}

async function found(api: Api, image: Schemas["ImageInput"]): Promise<void> {
  const { data } = await api.POST("/v1/smner", { body: { text: TEXT, image, id: "a post" } });
  assert(data);
  assert.equal(data.id, "a post");
  assert.deepEqual(data.image, { width: 256, height: 256 });
  for (const entity of data.entities) {
    assert.equal(entity.text, TEXT.slice(entity.start, entity.end));
  }
  const person = only(data.entities, "Eileen Collins");
  assert.equal(person.type, "PER" satisfies Schemas["TypeName"]);
  assert(person.score > 0 && person.score <= 1);
  assert.equal(person.groundable, true);
  assert.equal(person.box?.length, 4);
  const [x1, y1, x2, y2] = person.box as [number, number, number, number];
  assert(0 <= x1 && x1 < x2 && x2 <= 256 && 0 <= y1 && y1 < y2 && y2 <= 256);
  assert.deepEqual(person.mask?.size, [256, 256]);
  assert(typeof person.mask.counts === "string" && person.mask.counts.length > 0);
  assert(data.timings_ms.total > 0);
}

async function runLengths(api: Api, image: Schemas["ImageInput"]): Promise<void> {
  const options: Schemas["SmnerOptions"] = { mask_format: "rle_counts" };
  const { data } = await api.POST("/v1/smner", { body: { text: TEXT, image, options } });
  assert(data);
  const counts = only(data.entities, "Eileen Collins").mask?.counts;
  assert(Array.isArray(counts));
  assert.equal(counts.reduce((sum, run) => sum + run, 0), 256 * 256);
  assert(counts.some((run, index) => index % 2 === 1 && run > 0), "the mask has pixels");
}

async function errors(api: Api, image: Schemas["ImageInput"]): Promise<void> {
  const empty = await api.POST("/v1/smner", { body: { text: "", image } });
  assert.equal(empty.response.headers.get("content-type"), "application/problem+json");
  assertProblem(empty.error, 422, "invalid_input");
  const link = await api.POST("/v1/smner", { body: { text: TEXT, image: LINK } });
  assertProblem(link.error, 422, "url_input_disabled");
  // @ts-expect-error The types know what a post must have; without them this would compile.
  const missing = await api.POST("/v1/smner", { body: { image } });
  assertProblem(missing.error, 422, "invalid_input");
}

function assertProblem(
  problem: Schemas["ProblemBody"] | undefined,
  status: number,
  code: Schemas["Code"],
): void {
  assert(problem);
  assert.equal(problem.status, status);
  assert.equal(problem.code, code);
  assert.equal(problem.type, `urn:riveg:problem:${code}`);
  assert(problem.title && problem.detail && problem.instance);
}

function only(entities: Schemas["EntityOutput"][], text: string): Schemas["EntityOutput"] {
  const [first, ...others] = entities.filter((entity) => entity.text === text);
  assert(first && others.length === 0, JSON.stringify(entities));
  return first;
}

const [url, path] = process.argv.slice(2);
assert(url && path);
const api = createClient<paths>({ baseUrl: url });
const data = (await readFile(path)).toString("base64");
const image: Schemas["ImageInput"] = { type: "base64", data };
await health(api);
await information(api);
await found(api, image);
await runLengths(api, image);
await errors(api, image);
