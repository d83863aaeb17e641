// Failures and their causes.

import { h, scrolls } from "./dom.js";

/** A failure with its causes. */
export function failure(found) {
  return h(
    "div",
    { class: "failure" },
    h(
      "p",
      {},
      h("b", { class: "failed-text" }, found.type),
      found.message && `: ${found.message}`,
      h("span", { class: "muted" }, ` code ${found.code}${found.kind === "error" ? "" : `, ${found.kind.replace("_", " ")}`}`),
    ),
    found.stack && h("details", {}, h("summary", {}, "Stack"), scrolls(h("pre", { role: "group", "aria-label": "Stack" }, found.stack))),
    found.cause && h("div", { class: "cause" }, h("span", { class: "muted" }, "caused by"), failure(found.cause)),
  );
}
