// Rules for the page and its tests. Run from the repository's root: ESLint reads nothing above it.

import js from "@eslint/js";
import globals from "globals";

const rules = {
  eqeqeq: "error",
  "no-var": "error",
  "prefer-const": "error",
  "no-implied-eval": "error",
  "no-unused-vars": ["error", { args: "after-used" }],
  "max-lines": ["error", 400],
  "max-lines-per-function": ["error", { max: 45, skipComments: true }],
  "max-params": ["error", 4],
  complexity: ["error", 12],
};

export default [
  js.configs.recommended,
  { files: ["static/**/*.js"], languageOptions: { globals: globals.browser }, rules },
  {
    files: ["tests/**/*.mjs"],
    languageOptions: { globals: { ...globals.node, ...globals.browser } },
    rules: { ...rules, "max-lines-per-function": "off" },
  },
];
