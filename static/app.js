// The page: puts its parts together.

import { initChips } from "./chips.js";
import { initControls } from "./controls.js";
import { element } from "./dom.js";
import { initDownloads } from "./downloads.js";
import { initEntities } from "./entities.js";
import { initInput } from "./input.js";
import { initProgress } from "./progress.js";
import { cancel, run } from "./run.js";
import { initStage } from "./stage.js";
import { current, watch } from "./state.js";
import { initTimings } from "./timings.js";

/** @type {HTMLTextAreaElement} */
const text = element("text");

function send() {
  const { picture } = current();
  if (!picture) element("image").focus();
  else if (!text.value.trim()) text.focus();
  run(text.value);
}

function onSubmit(/** @type {Event} */ event) {
  event.preventDefault();
  send();
}

initStage();
initChips();
initEntities();
initControls();
initTimings();
initDownloads();
initProgress({ send });
initInput({ send });

watch(["answer"], ({ answer }) => { element("result").hidden = !answer; });
watch(["phase"], ({ phase }) => { element("cancel").hidden = phase !== "working"; });
element("post").addEventListener("submit", onSubmit);
element("cancel").addEventListener("click", () => {
  cancel();
  // The button that had the focus is gone.
  element("send").focus();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
});
