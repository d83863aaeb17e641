// The history as text: a line for each event, with its details inside.

import { h, replace } from "./dom.js";
import { failure } from "./failure.js";
import { duration, number, path, visible, whole } from "./format.js";
import { glance, json } from "./json.js";
import { moment } from "./ticking.js";

const PAYLOADS = ["input", "result", "value"];
const CATEGORIES = ["workflow", "activity", "timer", "signal", "child_workflow"];
const SHOWN = 300;

/** The attributes that name an event's subject. */
const SUBJECTS = ["activity_type", "signal_name", "child_workflow_id", "workflow_type", "update_name", "patch_id", "reason"];

/** Attributes that the event's line shows already, or that only programs need. */
const NOT_LISTED = ["timeline_key", "execution_index", "scheduled_event_id", "started_event_id", "initiated_event_id", "accepted_event_id"];

export class History {
  /** `of` is the workflow. `load` reads more events. */
  constructor(of, load) {
    this.of = of;
    this.load = load;
    this.only = "";
    this.rows = h("div", { class: "events" });
    this.below = h("div", { class: "pager" });
    this.count = h("span", { class: "muted" });
    this.chips = h("span", { class: "tabs small", role: "group", "aria-label": "Kind of event" });
    this.element = h(
      "section",
      { class: "card wide" },
      h("header", {}, h("h2", {}, "History"), this.count, h("span", { class: "space" }), this.chips),
      this.rows,
      this.below,
    );
    this.clear();
  }

  clear() {
    this.events = [];
    this.queues = new Map(); // task queues of children, whose later events do not have them
    this.drawn = 0;
    this.limit = SHOWN;
    this.hasMore = false;
    this.problem = "";
    replace(this.rows);
    this.#tell();
  }

  add(events) {
    if (!events.length) return;
    this.problem = "";
    this.events.push(...events);
    for (const { attributes: a } of events) if (a.child_workflow_id && a.task_queue) this.queues.set(a.child_workflow_id, a.task_queue);
    this.#draw();
  }

  more(hasMore) {
    this.hasMore = hasMore;
    this.#tell();
  }

  fail(text) {
    this.problem = text;
    this.#tell();
  }

  /** Open an event and scroll to it. */
  show(n) {
    this.only = "";
    this.limit = Math.max(this.limit, n);
    this.#redraw();
    const row = this.rows.querySelector(`[data-n="${Number(n)}"]`);
    if (!row) return;
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
    row.querySelector("summary").focus({ preventScroll: true });
  }

  #wanted = (event) => !this.only || event.category === this.only;

  #redraw() {
    const open = new Set([...this.rows.querySelectorAll(".event[open]")].map((row) => row.dataset.n));
    replace(this.rows);
    this.drawn = 0;
    this.#draw();
    for (const row of this.rows.children) if (open.has(row.dataset.n)) row.querySelector("details").open = true;
  }

  #draw() {
    const wanted = this.events.filter(this.#wanted);
    this.rows.append(...wanted.slice(this.drawn, this.limit).map((event) => this.#row(event)));
    this.drawn = Math.max(this.drawn, Math.min(wanted.length, this.limit));
    this.hidden = wanted.length - this.drawn;
    this.#tell();
  }

  #tell() {
    this.count.textContent = this.events.length ? `${number(this.events.length)}${this.hasMore ? "+" : ""} events` : "";
    const there = CATEGORIES.filter((name) => this.events.some((event) => event.category === name));
    replace(
      this.chips,
      there.length > 1 &&
        ["", ...there].map((name) =>
          h(
            "button",
            {
              type: "button",
              "aria-pressed": String(this.only === name),
              onclick: () => {
                this.only = name;
                this.limit = SHOWN;
                this.#redraw();
              },
            },
            name ? name.replace("_workflow", "") : "all",
          ),
        ),
    );
    replace(
      this.below,
      this.problem && h("p", { class: "muted" }, this.problem),
      !this.events.length && !this.problem && h("p", { class: "muted" }, "Nothing has happened yet."),
      this.hidden > 0 &&
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              this.limit += SHOWN;
              this.#draw();
            },
          },
          `Show more of ${number(this.hidden)}`,
        ),
      this.hasMore && !this.hidden && h("button", { type: "button", onclick: this.load }, "Load more"),
    );
  }

  #row(event) {
    const a = event.attributes;
    const began = this.events[0].at;
    const details = h(
      "details",
      {},
      h(
        "summary",
        { class: "e-line" },
        h("span", { class: "e-n" }, event.n),
        h("span", { class: "e-at", title: whole(event.at) }, `+${duration(event.at - began)}`),
        h("i", { class: `kind ${event.category}` }),
        h("span", { class: "e-name" }, nameOf(event.type)),
        h("span", { class: "e-what" }, this.#subject(a), this.#brief(event)),
      ),
    );
    const bad = /failed|terminated|timed_out/.test(event.type) ? "bad" : "";
    const row = h("div", { class: `event ${event.category} ${bad}`, data: { n: event.n } }, details, this.#child(a));
    details.addEventListener("toggle", () => {
      row.toggleAttribute("open", details.open);
      if (details.open && details.childElementCount === 1) details.append(this.#inside(event));
    });
    return row;
  }

  #subject(a) {
    const name = SUBJECTS.find((each) => a[each]);
    const text = name ? a[name] : a.duration_ms !== undefined ? duration(a.duration_ms) : "";
    return text ? h("b", {}, visible(text)) : null;
  }

  /** The link to a child. It is beside the line, because the line itself is a button. */
  #child(a) {
    const id = a.child_workflow_id;
    return id && h("a", { href: path(this.queues.get(id) ?? this.of.queue, id), class: "e-child", "aria-label": `Child ${visible(id)}` }, "open child");
  }

  #brief(event) {
    const a = event.attributes;
    const parts = [];
    if (a.attempt > 1 || event.type === "activity_task_retrying") parts.push(h("span", { class: "tag" }, `attempt ${a.attempt}`));
    if (event.took !== null && event.took > 0) parts.push(h("span", { class: "muted" }, duration(event.took)));
    if (a.failure) parts.push(h("span", { class: "failed-text" }, `${a.failure.type}${a.failure.message ? `: ${a.failure.message}` : ""}`));
    const name = PAYLOADS.find((each) => a[each] && a[each].text !== "null" && a[each].text !== "[]");
    // the event that ends an activity repeats its input; the result says more there
    const said = event.type.endsWith("_completed") && a.result ? "result" : name;
    if (said && !a.failure) parts.push(glance(a[said]));
    return parts;
  }

  #inside(event) {
    const { failure: failed, ...a } = event.attributes;
    const plain = Object.entries(a).filter(([name, value]) => !PAYLOADS.includes(name) && !NOT_LISTED.includes(name) && value !== null);
    const belongs = ["scheduled_event_id", "started_event_id", "initiated_event_id", "accepted_event_id"].find((name) => a[name]);
    return h(
      "div",
      { class: "e-inside" },
      h(
        "dl",
        { class: "data" },
        h("dt", {}, "at"),
        h("dd", {}, moment(event.at)),
        plain.map(([name, value]) => [
          h("dt", {}, name.replaceAll("_", " ")),
          h("dd", {}, name.endsWith("_time") ? moment(value) : name.endsWith("_ms") ? duration(value) : String(value)),
        ]),
        belongs && [
          h("dt", {}, "belongs to"),
          h("dd", {}, h("button", { type: "button", class: "quiet", onclick: () => this.show(a[belongs]) }, `event ${a[belongs]}`)),
        ],
        PAYLOADS.filter((name) => a[name]).map((name) => [h("dt", {}, name), h("dd", {}, json(a[name], { ...this.of, of: `${event.n}.${name}` }))]),
      ),
      failed && failure(failed),
    );
  }
}

const nameOf = (type) =>
  type
    .replace("workflow_execution_", type.startsWith("child") ? "" : "workflow ")
    .replace("activity_task_", "activity ")
    .replace("child_", "child ")
    .replace("workflow signaled", "signal received")
    .replaceAll("_", " ")
    .replace("workflow workflow", "workflow");
