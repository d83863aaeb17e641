// The timeline of a run: a bar for each activity, timer, wait and child, with their retries. Bars of pending operations grow.

import { h, replace, s } from "./dom.js";
import { clock, duration, visible, whole } from "./format.js";

const ROW = matchMedia("(pointer: coarse)").matches ? 44 : 24;
const BAR = 12;
const AXIS = 26;
const ENDING = 60; // pixels for the word after a bar
const MOST_ROWS = 150;
const NAMES = { activity: "activity", timer: "timer", signal: "wait", child_workflow: "child" };

/** How an event ends its operation. */
const ENDS = {
  activity_task_completed: "ok",
  activity_task_failed: "failed",
  activity_task_cancelled: "given-up",
  child_workflow_execution_completed: "ok",
  child_workflow_execution_failed: "failed",
  child_workflow_execution_accepted: "ok",
  child_workflow_execution_abandoned: "given-up",
  timer_fired: "ok",
  timer_cancelled: "given-up",
  workflow_execution_signaled: "ok",
  signal_wait_timed_out: "timed-out",
  signal_wait_cancelled: "given-up",
};
const BEGINS = {
  activity_task_scheduled: (a) => a.activity_type,
  child_workflow_execution_started: (a) => a.child_workflow_id,
  timer_started: (a) => duration(a.duration_ms),
  signal_wait_started: (a) => a.signal_name,
};
const MARKS = {
  workflow_execution_cancel_requested: "cancel requested",
  workflow_execution_continued_as_new: "continued as new",
  workflow_execution_terminated: "terminated",
};

export class Timeline {
  /** `show` is called with the number of the event that the user clicks on. */
  constructor(show) {
    this.show = show;
    this.even = false;
    this.all = false;
    this.canvas = h("div", { class: "t-canvas" });
    this.toggle = h(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-pressed": "false",
        title: "Give every step the same width, however long it took",
        onclick: () => this.#turn(),
      },
      "Even steps",
    );
    this.element = h(
      "section",
      { class: "card wide timeline", hidden: true },
      h("header", {}, h("h2", {}, "Timeline"), h("span", { class: "space" }), this.#legend(), this.toggle),
      this.canvas,
    );
    this.clear();
    this.resizing = new ResizeObserver(() => this.#redraw());
    this.resizing.observe(this.canvas);
    this.ticker = setInterval(() => this.record && !this.record.closed && document.visibilityState !== "hidden" && this.#grow(), 250);
  }

  clear() {
    this.operations = new Map();
    this.marks = [];
    this.times = new Set();
    this.first = null;
    this.record = null;
    this.growing = [];
  }

  close() {
    clearInterval(this.ticker);
    this.resizing.disconnect();
  }

  add(events) {
    for (const event of events) {
      const a = event.attributes;
      const key = a.timeline_key;
      this.times.add(event.at);
      this.first ??= event.at;
      if (event.type in MARKS) this.marks.push({ at: event.at, text: MARKS[event.type], type: event.type, n: event.n });
      if (!key) continue;
      if (event.type in BEGINS) {
        this.operations.set(key, {
          key,
          category: event.category,
          label: BEGINS[event.type](a),
          from: event.at,
          to: null,
          end: "going-on",
          due: dueOf(event),
          retries: [],
          n: event.n,
        });
        continue;
      }
      if (event.type === "signal_sent" || event.type === "side_effect_recorded") {
        const label = event.type === "signal_sent" ? `${a.signal_name} to ${a.receiver_workflow_id}` : "side effect";
        this.operations.set(key, { key, category: event.category, label, from: event.at, to: event.at, end: "ok", retries: [], n: event.n });
        continue;
      }
      const operation = this.operations.get(key);
      if (!operation) continue;
      if (event.type === "activity_task_retrying")
        operation.retries.push({ at: event.at, due: a.next_attempt_time, attempt: a.attempt, failure: a.failure });
      if (event.type in ENDS) {
        operation.to = event.at;
        operation.end = ENDS[event.type];
        operation.attempt = a.attempt;
      }
    }
  }

  draw(record) {
    this.record = record;
    this.#redraw();
  }

  #turn() {
    this.even = !this.even;
    this.toggle.setAttribute("aria-pressed", String(this.even));
    this.#redraw();
  }

  #legend() {
    const entry = (kind, text) => h("span", { class: "key" }, h("i", { class: `kind ${kind}` }), text);
    return h("span", { class: "legend" }, entry("activity", "activity"), entry("timer", "timer"), entry("signal", "wait"), entry("child", "child"));
  }

  #redraw() {
    const { record } = this;
    this.element.hidden = !record || this.operations.size === 0;
    this.growing = [];
    if (this.element.hidden || !this.canvas.clientWidth) return;
    const every = [...this.operations.values()];
    const shown = this.all ? every : every.slice(-MOST_ROWS);
    const width = this.canvas.clientWidth;
    const labels = Math.round(Math.min(240, Math.max(96, width * 0.24)));
    const height = AXIS + shown.length * ROW + 6;
    this.from = shown.length < every.length ? shown[0].from : this.first; // a record tells when its generation began
    this.plot = { left: labels, width: width - labels - 12 };
    this.#measure(record);
    const parts = [
      this.#axis(height),
      shown.map((each, at) => this.#row(each, AXIS + at * ROW, labels, width)),
      this.marks.filter((each) => each.at >= this.from).map((each) => this.#mark(each, height)),
    ];
    const now = record.closed ? null : s("line", { class: "t-now", y1: AXIS - 6, y2: height });
    if (now) this.growing.push((x) => place(now, { x1: x, x2: x }));
    replace(
      this.canvas,
      s(
        "svg",
        {
          width,
          height,
          viewBox: `0 0 ${width} ${height}`,
          role: "group",
          "aria-label": `${every.length} operations over time; the history below has the same as text`,
        },
        parts.flat(Infinity),
        now,
      ),
      shown.length < every.length &&
        h(
          "p",
          { class: "muted" },
          `The last ${shown.length} of ${every.length} operations. `,
          every.length <= 3000 && h("button", { type: "button", class: "quiet", onclick: () => ((this.all = true), this.#redraw()) }, "Show all"),
        ),
    );
    this.#grow();
  }

  // ---- from time to position

  #measure(record) {
    const end = record.closed ?? Date.now();
    const times = [...new Set([this.from, ...[...this.times].filter((each) => each >= this.from && each <= end), end])].sort((a, b) => a - b);
    this.end = Math.max(end, this.from + 1);
    if (this.even && times.length > 1) {
      this.x = (time) => this.plot.left + (rank(times, time) / (times.length - 1)) * this.plot.width;
    } else {
      this.x = (time) => this.plot.left + ((Math.min(Math.max(time, this.from), this.end) - this.from) / (this.end - this.from)) * this.plot.width;
    }
    this.steps = times;
  }

  #axis(height) {
    const parts = [];
    const most = Math.max(2, Math.floor(this.plot.width / 110));
    if (this.even) {
      const every = Math.ceil(this.steps.length / most);
      this.ticks = this.steps.filter((_, at) => at % every === 0).map((time) => ({ time, text: `+${duration(time - this.from)}` }));
    } else {
      const step = nice((this.end - this.from) / most);
      this.ticks = [];
      for (let time = 0; time <= this.end - this.from; time += step)
        this.ticks.push({ time: this.from + time, text: time ? `+${duration(time)}` : clock(this.from) });
    }
    for (const { time, text } of this.ticks) {
      const x = this.x(time);
      parts.push(s("line", { class: "t-grid", x1: x, x2: x, y1: AXIS - 6, y2: height }));
      if (x < this.plot.left + this.plot.width - 36) parts.push(s("text", { class: "t-tick", x: x + 3, y: 12 }, text, s("title", {}, whole(time))));
    }
    return parts;
  }

  #row(operation, y, labels, width) {
    const { category } = operation;
    const label = s("text", { class: "t-label", x: 0, y: y + ROW / 2 + 4 }, fit(visible(operation.label), labels - 10));
    const left = operation.to === null && this.record.closed; // the operation was pending when the run ended
    const bars = s("g", { class: `op ${category} ${left ? "given-up" : operation.end}` });
    const row = s(
      "g",
      {
        class: "t-row",
        tabindex: "0",
        role: "button",
        "aria-label": describe(operation),
        onclick: () => this.show(operation.n),
        onkeydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault(); // the key would close the event that gets the focus now
          this.show(operation.n);
        },
      },
      s("title", {}, describe(operation)),
      s("rect", { class: "t-hover", x: 0, y, width, height: ROW }),
      label,
      bars,
    );
    const top = y + (ROW - BAR) / 2;
    const draw = (end) => {
      const parts = [];
      let from = operation.from;
      for (const retry of operation.retries) {
        const failed = this.#bar(from, retry.at, top, "attempt failed-attempt", `attempt ${retry.attempt} failed: ${retry.failure.type}: ${retry.failure.message}`);
        from = Math.min(retry.due, operation.to ?? end);
        parts.push(this.#bar(retry.at, from, top, "backoff", `waits ${duration(retry.due - retry.at)} for the next attempt`), failed);
      }
      if (from < end || operation.to !== null) parts.push(this.#bar(from, operation.to ?? end, top, "attempt last")); // otherwise it waits for its next attempt
      if (operation.to !== null && operation.end !== "ok")
        parts.push(this.#ending(operation, y + ROW / 2 + 4));
      replace(bars, parts);
    };
    draw(this.end);
    if (operation.to === null) this.growing.push((_, end) => draw(end));
    return row;
  }

  #bar(from, to, y, kind, title) {
    const x = this.x(from);
    return s("rect", { class: kind, x, y, width: Math.max(3, this.x(to) - x), height: BAR, rx: 2.5 }, title && s("title", {}, title));
  }

  /** How the operation ended: a word after the bar, or on the bar's end if there is no room. */
  #ending(operation, y) {
    const x = this.x(operation.to);
    const room = x + ENDING <= this.plot.left + this.plot.width;
    const at = room ? { class: "t-end", x: x + 5 } : { class: "t-end within", x: x - 5, "text-anchor": "end" };
    return s("text", { ...at, y }, operation.end.replace("-", " "));
  }

  #mark({ at, text, type }, height) {
    const x = this.x(at);
    return s(
      "g",
      { class: `t-mark ${type}` },
      s("line", { x1: x, x2: x, y1: AXIS - 8, y2: height }),
      s("text", { x: x - 4, y: AXIS - 2, "text-anchor": "end" }, text),
      s("title", {}, `${text}\n${whole(at)}`),
    );
  }

  /** Redraw as time passes: everything when the scale is full, otherwise only the growing bars. */
  #grow() {
    if (!this.record || this.record.closed || !this.growing.length) return;
    const now = Date.now();
    if (now > this.end + (this.end - this.from) * 0.02) {
      const focused = document.activeElement?.closest?.(".t-row")?.getAttribute("aria-label");
      this.#redraw();
      if (focused)
        [...this.canvas.querySelectorAll(".t-row")].find((row) => row.getAttribute("aria-label") === focused)?.focus({ preventScroll: true });
      return;
    }
    for (const grow of this.growing) grow(this.x(now), now);
  }
}

const place = (element, attributes) => Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));

const dueOf = ({ at, attributes: a, type }) => {
  const room = type === "timer_started" ? a.duration_ms : a.timeout_ms;
  return room === undefined ? null : at + room;
};

function describe(operation) {
  const kind = NAMES[operation.category] ?? operation.category;
  const took = operation.to === null ? "not finished" : `took ${duration(operation.to - operation.from)}, ${operation.end.replace("-", " ")}`;
  const attempts = operation.attempt > 1 ? `, attempt ${operation.attempt}` : "";
  return `${kind} ${operation.label}: ${took}${attempts}`;
}

/** The index of a time among sorted times, with fractions between them. */
function rank(times, time) {
  let low = 0;
  let high = times.length - 1;
  if (time <= times[0]) return 0;
  if (time >= times[high]) return high;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle;
    else high = middle;
  }
  return low + (time - times[low]) / (times[high] - times[low]);
}

const NICE = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5,
];

function nice(ms) {
  return NICE.find((each) => each >= ms) ?? Math.ceil(ms / 864e5) * 864e5;
}

let ruler = null;

/** A text, cut to fit a width. */
function fit(text, width) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  if (ruler.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (ruler.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}
