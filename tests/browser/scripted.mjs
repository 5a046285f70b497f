// A server that answers `POST /v1/smner:stream` just as a test says, one event at a time. The page
// still comes from the real one.

import { createServer } from "node:http";

/** Lets `answer(request, response)` answer the page's posts. */
export async function script(t, page, answer) {
  const server = createServer(async (request, response) => {
    for await (const chunk of request) void chunk;
    await answer(request, response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${server.address().port}/`;
  await page.route("**/v1/smner:stream", (route) => route.continue({ url }));
}

export function begin(response) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(": the stream begins\n\n");
}

export function tell(response, name, data) {
  response.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
}

/** Refuses with a problem document. */
export function refuse(response, problem, headers = {}) {
  response.writeHead(problem.status, { "content-type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ title: "A title", detail: "a detail", instance: "an-id", ...problem }));
}

const BOXES = [[10, 10, 200, 200], [150, 40, 250, 180]];

/** The events of an answer with two persons, of whom the picture shows the first. */
export function events() {
  const image = { width: 256, height: 256 };
  const common = { type: "PER", score: 0.9, fine_type: "athlete" };
  const entities = [
    { text: "Ann", start: 0, end: 3, expression: "Ann (PER)-an athlete", ...common },
    { text: "Bob", start: 8, end: 11, expression: "Bob (PER)-an athlete", ...common },
  ];
  const shown = [0.9, 0.2].map((score, index) => ({ index, groundable: true, entailment_score: score }));
  const boxes = BOXES.map((box, index) => ({ index, box, box_score: 0.8 }));
  const masks = BOXES.map((box, index) => ({ index, mask: filled(box, image), mask_score: [0.7, 0.6][index] }));
  const whole = entities.map((entity, at) => ({ ...entity, ...shown[at], ...boxes[at], ...masks[at] }));
  const head = { id: "an-id", pack: { name: "nano", version: "1" }, image };
  const timings_ms = { decode: 1, recognize: 2, entail: 3, ground: 4, segment: 5, queue: 6, total: 21 };
  return {
    recognized: { ...head, entities }, entailed: { entities: shown }, grounded: { entities: boxes },
    segmented: { entities: masks }, done: { ...head, entities: whole.map(withoutIndex), timings_ms },
  };
}

function withoutIndex(entity) {
  return Object.fromEntries(Object.entries(entity).filter(([key]) => key !== "index"));
}

/** A mask that fills its box, in plain run lengths. */
function filled([left, top, right, bottom], { width, height }) {
  const counts = [left * height + top];
  for (let x = left; x < right; x += 1) counts.push(bottom - top, height - (bottom - top));
  counts[counts.length - 1] = (width - right) * height + (height - bottom);
  return { size: [height, width], counts };
}
