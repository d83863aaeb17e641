// JSON for reading: coloured, foldable, and exactly the text that was sent. The page does not parse it, so no number is rounded.

import { get } from "./api.js";
import { h, replace, scrolls, toast } from "./dom.js";
import { bytes } from "./format.js";

const TOKENS = /("(?:\\.|[^"\\])*"?)(\s*:)?|(-?\d[\d.eE+-]*)|\b(true|false|null)\b/g;

/** One line as coloured spans. */
export function coloured(line) {
  const parts = [];
  let at = 0;
  for (const match of line.matchAll(TOKENS)) {
    if (match.index > at) parts.push(line.slice(at, match.index));
    const [whole, string, colon, digits, word] = match;
    if (string !== undefined) {
      parts.push(h("span", { class: colon ? "j-key" : "j-string" }, string));
      if (colon) parts.push(colon);
    } else parts.push(h("span", { class: digits ? "j-number" : "j-word" }, digits ?? word ?? whole));
    at = match.index + whole.length;
  }
  parts.push(line.slice(at));
  return parts;
}

const indent = (line) => line.length - line.trimStart().length;

/** The lines from `at` on that are indented deeper than `depth`, as nodes. Blocks can be folded. */
function block(lines, at, depth, open) {
  const nodes = [];
  while (at < lines.length && (depth < 0 || indent(lines[at]) > depth)) {
    const line = lines[at];
    if (/[[{]$/.test(line)) {
      const inside = block(lines, at + 1, indent(line), open);
      const closing = lines[inside.at] ?? "";
      const count = inside.at - at - 1;
      nodes.push(
        h(
          "details",
          { open: open && count <= 400 },
          h("summary", { class: "j-line" }, coloured(line), h("span", { class: "j-folded" }, ` ${count} ${count === 1 ? "line" : "lines"} ${closing.trim()}`)),
          inside.nodes,
          h("div", {}, coloured(closing)),
        ),
      );
      at = inside.at + 1;
    } else {
      nodes.push(h("div", {}, coloured(line)));
      at += 1;
    }
  }
  return { nodes, at };
}

/** A payload `{text, size, cut}`. `more` are the parameters of the request for the whole payload. */
export function json(payload, more) {
  const element = h("div", { class: "json" });
  const show = (text, cut) => {
    const lines = text.split("\n");
    const copy = h("button", { class: "quiet copy", type: "button", title: "Copy as JSON", onclick: () => copyText(text) }, "Copy");
    const body = scrolls(h("div", { class: "j-body", role: "group", "aria-label": "JSON" }, block(lines, 0, -1, true).nodes));
    const rest =
      cut &&
      h(
        "div",
        { class: "j-more" },
        `Only the beginning of ${bytes(payload.size)} is shown. `,
        more && h("button", { type: "button", class: "quiet", onclick: load }, "Show all"),
      );
    replace(element, !cut && copy, body, rest);
  };
  const load = async () => {
    try {
      const whole = await get("payload", more);
      show(whole.text, false);
    } catch (error) {
      toast(error.message, "error");
    }
  };
  show(payload.text, payload.cut);
  return element;
}

/** A payload in one line. */
export function glance(payload, most = 120) {
  const text = payload.text.replace(/\s*\n\s*/g, " ");
  return h("span", { class: "json inline" }, coloured(text.length > most ? `${text.slice(0, most - 1)}…` : text));
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not allow copying here.", "error");
  }
}
