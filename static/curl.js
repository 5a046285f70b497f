// The same request for a terminal.

/**
 * A command for POSIX shells. `--form-string` sends the text as it is, even where it begins with
 * `@`, which `-F` would take for a file's name.
 * @param {{picture: {name: string, url: string | null}, text: string, origin: string,
 *   view: {threshold: number, minMask: number}}} request
 */
export function curlOf({ picture, text, view, origin }) {
  const options = JSON.stringify({ entailment_threshold: view.threshold, min_mask_score: view.minMask });
  const fetchFirst = picture.url ? `curl -s ${quoted(origin + picture.url)} | ` : "";
  const image = picture.url ? `image=@-;filename=${picture.name}` : `image=@${named(picture.name)}`;
  const parts = [`-F ${quoted(image)}`, `--form-string ${quoted(`text=${text}`)}`, `--form-string ${quoted(`options=${options}`)}`];
  return `${fetchFirst}curl ${parts.join(" \\\n  ")} \\\n  ${quoted(`${origin}/v1/smner`)}`;
}

/**
 * For the shell.
 * @param {string} words
 */
function quoted(words) {
  return `'${words.replaceAll("'", `'\\''`)}'`;
}

/**
 * For curl, which reads commas and semicolons in a file's name otherwise.
 * @param {string} name
 */
function named(name) {
  return `"${name.replace(/[\\"]/g, "\\$&")}"`;
}
