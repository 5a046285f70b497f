// Problems in words that a person understands, with what can be done about them.

/** @typedef {import("./api.js").Problem} Problem */

/** @type {Record<string, string>} */
const WORDS = {
  malformed_request: "The server could not read what this page sent. Loading the page again may help.",
  unauthorized: "This server wants a key, and the page has none.",
  not_found: "This server does not know the way that the page asks. Its version may be another than the page's: load the page again.",
  method_not_allowed: "This server does not know the way that the page asks. Load the page again.",
  request_timeout: "The picture took too long to reach the server. Try a smaller one, or a faster connection.",
  payload_too_large: "The picture is too large for this server. Try a smaller one.",
  unsupported_media_type: "The server cannot read this kind of picture. JPEG, PNG, WebP and GIF work.",
  url_input_disabled: "This server takes no pictures by their address.",
  overloaded: "The server is busy with other pictures.",
  internal: "Something failed inside the server. Trying again may help.",
  unavailable: "The server is not ready: it is starting, or about to stop.",
  deadline_exceeded: "The answer took too long and was given up. Try again when the server is less busy.",
  unreachable: "The server cannot be reached. Is it still running, and are you online?",
  broken_off: "The connection broke before the answer was complete.",
  not_a_picture: "That is not a picture that can be read here. JPEG, PNG, WebP and GIF work.",
  no_picture: "Choose a picture first.",
  no_text: "Write the text of the post first.",
};

/** Problems that the reader has to settle before another attempt makes sense. */
const READERS = ["not_a_picture", "no_picture", "no_text", "payload_too_large", "unsupported_media_type", "invalid_input", "unauthorized"];

/** @param {Problem} problem */
export function inWords({ code = "", detail, title, instance }) {
  // Whatever is not legal is told best by the server, which knows the place.
  const said = sentence(detail ?? title ?? "Something went wrong.");
  const words = WORDS[code] ?? (code === "invalid_input" ? `The server did not accept this: ${said}` : said);
  return instance && !READERS.includes(code) ? `${words} (Request ${instance})` : words;
}

/** @param {Problem} problem */
export function isWorthAnotherTry({ code = "" }) {
  return !READERS.includes(code);
}

/** @param {string} words */
function sentence(words) {
  return /[.!?]$/.test(words) ? words : `${words}.`;
}
