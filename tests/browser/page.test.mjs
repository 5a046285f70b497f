// The page at `/` in a real browser. One process for all of it: one server, one browser.

import "./setup.mjs";
import "./answers.mjs";
import "./input.mjs";
import "./linking.mjs";
import "./faults.mjs";
import "./look.mjs";
import "./rle.mjs";
