// The filters of the list: tabs, fields and a time range. The page's address has them, so that a view can be bookmarked.

import { h, replace } from "./dom.js";
import { number } from "./format.js";

const NAMES = ["status", "type", "queue", "text", "data", "started", "from", "to"];

/** Milliseconds after the last key before a search begins. */
const PAUSE = 250;

const MINUTE = 60_000;
const RANGES = [
  ["", "Any time", 0],
  ["15m", "Last 15 minutes", 15 * MINUTE],
  ["1h", "Last hour", 60 * MINUTE],
  ["24h", "Last 24 hours", 24 * 60 * MINUTE],
  ["7d", "Last 7 days", 7 * 24 * 60 * MINUTE],
  ["range", "From … to …", 0],
];

/** Whether a search for user data is complete: each word has a name and an equals sign, and each quoted text its closing quote. */
const isData = (text) => /^(?:\s*[^\s,=]+=(?:"(?:\\.|[^"\\])*"|[^\s,"][^\s,]*)(?:[\s,]+|$))*$/.test(text);

export class Filters {
  /** `changed` is called when the filters change. */
  constructor(statuses, changed) {
    this.changed = changed;
    this.values = Object.fromEntries([...new URLSearchParams(location.search)].filter(([name, value]) => NAMES.includes(name) && value));
    this.opened = Date.now(); // the end of "the last hour"; all pages of a walk need the same one
    this.typing = 0;

    this.tabs = ["", ...statuses].map((name) => {
      const count = h("small", { "aria-hidden": "true" });
      const button = h(
        "button",
        { type: "button", class: name, title: name === "running" ? "Includes retrying and parked workflows" : undefined, onclick: () => this.set({ status: name }) },
        name && h("i"),
        name || "all",
        count,
      );
      return { name, button, count };
    });
    this.search = this.#input("text", "Id contains…", { type: "search", "aria-keyshortcuts": "/" });
    this.types = h("datalist", { id: "types" });
    this.queues = h("datalist", { id: "queues" });
    this.inputs = [
      this.search,
      this.#input("type", "Type", { list: "types", size: 14 }),
      this.#input("queue", "Task queue", { list: "queues", size: 14 }),
      this.#input("data", "Data, as field=value", { size: 18 }),
    ];
    this.range = h(
      "select",
      { "aria-label": "Started", onchange: (event) => this.set({ started: event.target.value, ...(event.target.value !== "range" && { from: "", to: "" }) }) },
      RANGES.map(([value, text]) => h("option", { value }, text)),
    );
    this.from = this.#moment("from", "Started from");
    this.to = this.#moment("to", "Started before");
    this.between = h("span", { class: "between" }, this.from, " to ", this.to);
    this.clearing = h("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Clear");
    this.element = h(
      "div",
      { class: "filters" },
      h("div", { class: "tabs", role: "group", "aria-label": "Status" }, this.tabs.map((each) => each.button)),
      h("div", { class: "fields", role: "search", "aria-label": "Workflows" }, this.inputs, this.range, this.between, this.clearing, this.types, this.queues),
    );
    this.#show();
  }

  get any() {
    return Object.keys(this.values).length > 0;
  }

  /** The filters as parameters for the server. */
  get asked() {
    const { started, from, to, ...others } = this.values;
    const [after, before] = this.#times();
    return { ...others, after, before };
  }

  /** Whether a workflow matches the filters, as far as its row shows. User data is not in the row. */
  fit(row) {
    const { status, type = "", queue = "", text = "" } = this.values;
    const begins = (value, prefix) => value.toLowerCase().startsWith(prefix.toLowerCase());
    const [after = -Infinity, before = Infinity] = this.#times();
    return (
      (!status ||
        row.status === status ||
        (status === "running" && row.status === "parked") ||
        (status === "retrying" && Boolean(row.retrying))) &&
      begins(row.type, type) &&
      begins(row.queue, queue) &&
      row.id.toLowerCase().includes(text.toLowerCase()) &&
      row.started >= after &&
      row.started < before
    );
  }

  set(values) {
    clearTimeout(this.typing);
    const wanted = Object.fromEntries(Object.entries({ ...this.values, ...values }).filter(([, value]) => value));
    if (JSON.stringify(Object.entries(wanted).sort()) === JSON.stringify(Object.entries(this.values).sort())) return;
    this.values = wanted;
    this.opened = Date.now();
    const query = new URLSearchParams(NAMES.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
    this.#show();
    for (const { count } of this.tabs) count.classList.add("old");
    this.changed();
  }

  clear() {
    this.set(Object.fromEntries(NAMES.map((name) => [name, ""])));
    this.tabs[0].button.focus(); // the pressed button is hidden now
  }

  /** Show counts in the tabs. */
  count({ counts, total, complete }) {
    for (const { name, button, count } of this.tabs) {
      const found = name ? (counts[name] ?? 0) : total;
      const text = `${number(found)}${complete ? "" : "+"}`;
      count.classList.remove("old");
      count.textContent = text;
      button.setAttribute("aria-description", `${text} workflows`);
    }
  }

  /** Suggest the types and task queues of these rows. */
  offer(rows) {
    const fill = (element, values) =>
      replace(
        element,
        [...new Set(values)].sort().map((value) => h("option", { value })),
      );
    fill(
      this.types,
      rows.map((row) => row.type),
    );
    fill(
      this.queues,
      rows.map((row) => row.queue),
    );
  }

  close() {
    clearTimeout(this.typing);
  }

  /** The time range in ms since the epoch. */
  #times() {
    const { started, from, to } = this.values;
    const ms = (text) => (text && !Number.isNaN(Date.parse(text)) ? Math.max(0, Date.parse(text)) : undefined);
    if (started === "range") return [ms(from), ms(to)];
    const room = RANGES.find(([value]) => value === started)?.[2];
    return [room ? this.opened - room : undefined, undefined];
  }

  #show() {
    const { values } = this;
    for (const { name, button } of this.tabs) button.setAttribute("aria-pressed", String((values.status ?? "") === name));
    for (const input of this.inputs) {
      const value = values[input.name] ?? "";
      if (input.value.trim() !== value) input.value = value;
      input.classList.toggle("set", Boolean(value));
    }
    this.range.value = RANGES.some(([value]) => value === values.started) ? values.started : "";
    this.range.classList.toggle("set", Boolean(values.started));
    this.between.hidden = values.started !== "range";
    for (const input of [this.from, this.to]) if (document.activeElement !== input) input.value = localOf(values[input.name]);
    this.clearing.hidden = !this.any;
  }

  #input(name, label, attributes) {
    const take = (input) => this.set({ [name]: input.value.trim() });
    return h("input", {
      name,
      placeholder: label,
      "aria-label": label,
      autocomplete: "off",
      spellcheck: "false",
      oninput: ({ target }) => {
        clearTimeout(this.typing);
        if (name !== "data" || isData(target.value)) this.typing = setTimeout(() => take(target), PAUSE);
      },
      onchange: ({ target }) => take(target),
      onkeydown: (event) => event.key === "Escape" && this.set({ [name]: "" }),
      ...attributes,
    });
  }

  #moment(name, label) {
    return h("input", {
      type: "datetime-local",
      name,
      "aria-label": label,
      onchange: ({ target }) => this.set({ [name]: target.value && new Date(target.value).toISOString() }),
    });
  }
}

/** A time of the address in the format of the browser's field for local times. */
function localOf(text) {
  const at = new Date(text ?? NaN);
  return Number.isNaN(at.getTime()) ? "" : new Date(at.getTime() - at.getTimezoneOffset() * MINUTE).toISOString().slice(0, 16);
}
