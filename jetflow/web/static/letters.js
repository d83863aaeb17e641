// Dead letters: malformed commands and expired signals. Read, edit, requeue or drop them.

import { get, live, post } from "./api.js";
import { ask, field } from "./dialogs.js";
import { h, replace, scrolls, toast } from "./dom.js";
import { bytes } from "./format.js";
import { since } from "./ticking.js";

export function letters(main, { about }) {
  document.title = "Dead letters · jetflow";
  const content = h("div", { class: "letters" });
  const below = h("nav", { class: "pager", "aria-label": "Pages" });
  const starts = [1];
  let over = false;
  replace(
    main,
    h(
      "div",
      { class: "head" },
      h("h1", {}, "Dead letters"),
      h("p", { class: "muted" }, "Malformed commands, and signals that expired before a workflow waited for them. Oldest first; stored for 30 days."),
    ),
    content,
    below,
  );

  async function load(page = 0) {
    try {
      const found = await get("letters", { start: starts[page] });
      if (over) return;
      replace(content, found.letters.length ? found.letters.map((each) => letter(each, about.read_only, () => load(page))) : nothing(page));
      starts[page + 1] = found.next;
      below.hidden = page === 0 && !found.next;
      replace(
        below,
        h("button", { type: "button", disabled: page === 0, onclick: () => load(page - 1) }, "Older"),
        h("button", { type: "button", disabled: !found.next, onclick: () => load(page + 1) }, "Newer"),
      );
    } catch (error) {
      if (over) return;
      if (content.querySelector(".letter")) toast(error.message, "error");
      else replace(content, h("p", { class: "problem", role: "alert" }, error.message));
    }
  }

  const unwatch = live.watch({ view: "none" }, { onagain: () => load() });
  load();
  return () => {
    over = true;
    unwatch();
  };
}

function nothing(page) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, page ? "No more dead letters" : "No dead letters"),
    h("p", {}, "No command was refused, and no signal has expired."),
  );
}

function letter(each, readOnly, reload) {
  const headers = Object.entries(each.headers).map(([name, value]) => `${name}: ${value}`);
  return h(
    "article",
    { class: "card letter", data: { number: each.number } },
    h(
      "header",
      {},
      h("span", { class: "muted n" }, `#${each.number}`),
      h("code", { class: "subject" }, each.subject),
      h("span", { class: "space" }),
      since(Date.parse(each.at)),
    ),
    h("p", { class: "failed-text" }, each.reason),
    headers.length > 0 && h("p", { class: "muted" }, headers.join("  ·  ")),
    scrolls(h("pre", { class: "body", role: "group", "aria-label": "Content of the dead letter" }, each.body || "(no body)")),
    !each.shown_whole &&
      h(
        "p",
        { class: "muted" },
        `The body has ${bytes(each.size)} and is not shown as it is. See: jetflow dead-letters show ${each.number}`,
      ),
    !readOnly &&
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: async () => (await drop(each)) && reload() }, "Drop…"),
        h("button", { type: "button", onclick: async () => (await requeue(each)) && reload() }, "Edit and requeue…"),
      ),
  );
}

function drop(each) {
  return ask({
    title: `Drop dead letter ${each.number}?`,
    text: h("span", {}, "The message to ", h("code", {}, each.subject), " is deleted. This cannot be undone."),
    confirm: "Drop it",
    danger: true,
    submit: async () => (await post("letters/drop", { number: each.number })).outcome,
  });
}

function requeue(each) {
  const subject = h("input", { name: "subject", value: each.subject, spellcheck: "false", required: true });
  const body = h("textarea", {
    name: "body",
    rows: 8,
    spellcheck: "false",
    value: each.shown_whole ? each.body : "",
    disabled: !each.shown_whole,
    autofocus: each.shown_whole,
  });
  return ask({
    title: `Requeue dead letter ${each.number}`,
    text: "The message is sent again with this subject and body, and the dead letter is removed.",
    fields: [field("Subject", subject), field("Body", body, each.shown_whole ? undefined : "It is sent as it is stored.")],
    confirm: "Send it again",
    submit: async () => {
      const changed = each.shown_whole && body.value !== each.body ? { body: body.value } : {};
      return (await post("letters/requeue", { number: each.number, subject: subject.value, ...changed })).outcome;
    },
  });
}
