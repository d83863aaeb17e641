// Dead letters: commands that nothing could be done with. Look, mend, send again, drop.

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
      h("p", { class: "muted" }, "Commands that could not be understood, and signals that expired before anyone waited for them. Oldest first; kept for 30 days."),
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
    h("p", {}, "Every command so far was understood, and no signal has expired unseen."),
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
    scrolls(h("pre", { class: "body", role: "group", "aria-label": "What the letter holds" }, each.body || "(no body)")),
    !each.shown_whole &&
      h(
        "p",
        { class: "muted" },
        `Not all of it, or not as it is: the body has ${bytes(each.size)}. jetflow dead-letters show ${each.number} shows more.`,
      ),
    !readOnly &&
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: async () => (await drop(each)) && reload() }, "Drop…"),
        h("button", { type: "button", onclick: async () => (await requeue(each)) && reload() }, "Mend and requeue…"),
      ),
  );
}

function drop(each) {
  return ask({
    title: `Drop letter ${each.number}?`,
    text: h("span", {}, "The command to ", h("code", {}, each.subject), " is gone for good then."),
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
    title: `Requeue letter ${each.number}`,
    text: "The command is sent again, as it was or as you mend it here, and the letter is removed.",
    fields: [field("Subject", subject), field("Body", body, each.shown_whole ? undefined : "It is sent as it is stored.")],
    confirm: "Send it again",
    submit: async () => {
      const changed = each.shown_whole && body.value !== each.body ? { body: body.value } : {};
      return (await post("letters/requeue", { number: each.number, subject: subject.value, ...changed })).outcome;
    },
  });
}
