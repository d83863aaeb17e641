// One workflow: its state, waits, timeline, payloads and history, and the commands to it.

import { get, live } from "./api.js";
import { askCancel, askSignal, askTerminate } from "./dialogs.js";
import { h, replace, throttled } from "./dom.js";
import { failure } from "./failure.js";
import { ago, machine, path, visible, whole } from "./format.js";
import { History } from "./history.js";
import { json } from "./json.js";
import { status } from "./status.js";
import { lasting, moment, since, ticking } from "./ticking.js";
import { Timeline } from "./timeline.js";

const MOST_EVENTS = 5000;
const MOST_PAUSE = 3000;

export function workflow(main, { about }, queue, id) {
  document.title = `${visible(id)} · jetflow`;
  const asked = { queue, id };
  const top = h("div", { class: "w-top" });
  const waits = h("div");
  const input = h("div", { class: "card", hidden: true });
  const payloads = h("div", { class: "payloads" });
  const timeline = new Timeline((n) => events.show(n));
  const events = new History(asked, () => more());
  const rest = h("div", {}, waits, timeline.element, payloads, events.element);
  const trouble = h("div", { hidden: true });
  let over = false;
  let run = null;
  let shown = "";
  let next = 1; // number of the next event to read
  let pause = 400;
  let reading = null; // the AbortController of the running read

  replace(
    main,
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "/" }, "Workflows"), " / ", h("a", { href: `/?queue=${encodeURIComponent(queue)}` }, visible(queue))),
    trouble,
    top,
    rest,
  );

  async function load() {
    const began = performance.now();
    reading = new AbortController();
    try {
      const record = await get("workflow", asked, reading.signal);
      if (over) return;
      if (record.run !== run) start(record.run);
      draw(record);
      if (record.status !== "pending") await loadEvents(record);
      pause = Math.min(MOST_PAUSE, Math.max(400, 4 * (performance.now() - began))); // a long history is read less often
    } catch (error) {
      pause = 400;
      if (!over && error.name !== "AbortError") problem(error);
    }
  }

  /** Show another run of the id. Drop everything of the one before. */
  function start(other) {
    run = other;
    next = 1;
    input.hidden = true;
    timeline.clear();
    events.clear();
  }

  async function loadEvents(record, most = MOST_EVENTS) {
    const mine = run;
    let got = 0;
    for (;;) {
      let found;
      try {
        found = await get("history", { ...asked, from: next }, reading.signal);
      } catch (error) {
        if (error.name === "AbortError") throw error;
        if (!over) events.fail(error.status === 404 ? "Its history is no longer stored." : error.message);
        return;
      }
      if (over || mine !== run || (found.run !== null && found.run !== run)) return;
      const fresh = found.events.filter((event) => event.n >= next);
      next = fresh.length ? fresh.at(-1).n + 1 : next;
      got += fresh.length;
      if (fresh[0]?.n === 1) showInput(fresh[0].attributes.input);
      timeline.add(fresh);
      events.add(fresh);
      if (!found.next || got >= most) {
        events.more(Boolean(found.next));
        break;
      }
    }
    timeline.draw(record);
  }

  const more = () => load();

  function showInput(given) {
    input.hidden = !given || given.text === "[]";
    if (!input.hidden) replace(input, h("h2", {}, "Input"), json(given, { ...asked, of: "1.input" }));
  }

  /** Show an error above the old content. If there is no such workflow, hide the content. The next read may find one. */
  function problem(error) {
    const missing = error.status === 404;
    trouble.hidden = false;
    top.hidden = rest.hidden = missing;
    replace(
      trouble,
      missing
        ? h(
            "div",
            { class: "empty" },
            h("h1", {}, "There is no such workflow"),
            h("p", {}, "It was never started, or its record has expired: ", h("code", {}, visible(id)), " on task queue ", h("code", {}, visible(queue))),
          )
        : h("p", { class: "problem", role: "alert" }, error.message),
    );
  }

  // ---- the record

  function draw(record) {
    trouble.hidden = true;
    replace(trouble);
    top.hidden = rest.hidden = false;
    const text = JSON.stringify(record);
    if (text === shown) return;
    shown = text;
    const open = record.status === "running" || record.status === "parked" || record.status === "pending";
    replace(top, headline(record, open), facts(record));
    replace(waits, callout(record, open), record.failure && card("Failure", failure(record.failure)));
    replace(
      payloads,
      input,
      record.result && card("Result", json(record.result, { ...asked, of: "result" })),
      record.entity && card("Entity", json(record.entity, { ...asked, of: "entity" })),
      Object.keys(record.data ?? {}).length > 0 &&
        card(
          "User data",
          h(
            "dl",
            { class: "data" },
            Object.entries(record.data).map(([name, value]) => [h("dt", {}, name), h("dd", {}, json(value, { ...asked, of: `data.${name}` }))]),
          ),
        ),
    );
  }

  function headline(record, open) {
    const names = (record.waits ?? []).filter((each) => each.kind === "signal").map((each) => each.name);
    const button = (text, action, kind) =>
      h("button", { type: "button", class: kind, onclick: () => action({ queue, id, names, name: names[0] }) }, text);
    return h(
      "div",
      { class: "w-head" },
      h("h1", { class: "id", data: { id, queue } }, visible(id)),
      status(record.status),
      record.cancelling && h("span", { class: "tag" }, "asked to cancel"),
      open && record.retrying && h("span", { class: "tag retrying" }, `retrying, attempt ${record.retrying.attempt}`),
      h("span", { class: "space" }),
      open &&
        !about.read_only &&
        h(
          "div",
          { class: "buttons" },
          button("Signal…", askSignal),
          button("Cancel…", askCancel),
          button("Terminate…", askTerminate, "danger-quiet"),
        ),
    );
  }

  function facts(record) {
    if (record.status === "pending")
      return h("p", { class: "muted" }, "Its start is stored. It begins when a worker of this task queue is up.");
    const relative = (each) =>
      each.queue
        ? h("a", { href: path(each.queue, each.id), class: "id" }, visible(each.id))
        : h("span", { class: "id", title: "Its record is gone" }, visible(each.id));
    const pairs = [
      ["Type", h("b", {}, visible(record.type))],
      ["Task queue", visible(record.queue)],
      ["Started", moment(record.started)],
      record.closed ? ["Ended", moment(record.closed)] : ["Changed", since(record.updated)],
      [record.closed ? "Took" : "Running for", lasting(record.started, record.closed)],
      ["Run", h("code", {}, record.run)],
      record.generation > 1 && ["Generation", record.generation],
      record.parent && ["Parent", relative(record.parent)],
      record.origin && record.origin.id !== record.parent?.id && ["Origin", relative(record.origin)],
      record.worker && ["Worker", h("code", {}, record.worker)],
    ];
    return h(
      "dl",
      { class: "facts" },
      pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
  }

  function callout(record, open) {
    if (!open || record.status === "pending") return null;
    const parked =
      record.parked &&
      h(
        "div",
        { class: "parked-text" },
        h("b", {}, record.parked.reason),
        " since ",
        moment(record.parked.since),
        h("pre", {}, record.parked.message),
      );
    if (!record.waits.length) return parked && h("section", { class: "callout parked" }, parked);
    const hidden = record.pending - record.waits.length;
    return h(
      "section",
      { class: `callout ${record.status}` },
      parked,
      h("h2", {}, "Waits for"),
      h("ul", {}, record.waits.map(waiting)),
      hidden > 0 && h("p", { class: "muted" }, `and ${hidden} more`),
    );
  }

  function waiting(wait) {
    const parts = [
      h("i", { class: `kind ${wait.kind}` }),
      h("b", {}, `${wait.kind}${wait.name ? " " : ""}`, wait.name && h("code", {}, visible(wait.name))),
      " since ",
      since(wait.since),
    ];
    if (wait.attempt > 1) parts.push(`, attempt ${wait.attempt}`);
    if (wait.due && !wait.failure) parts.push(", until ", moment(wait.due), " (", since(wait.due), ")");
    else if (wait.due) parts.push(" at ", moment(wait.due), " (", attemptDue(wait.due), ")");
    if (wait.kind === "signal" && !about.read_only)
      parts.push(" ", h("button", { type: "button", class: "quiet", onclick: () => askSignal({ queue, id, name: wait.name }) }, "Send it…"));
    if (wait.failure) parts.push(h("div", { class: "failed-text" }, "after ", h("b", {}, wait.failure.type), ` ${wait.failure.message}`));
    return h("li", { class: wait.failure ? "retrying" : undefined }, parts);
  }

  const changed = throttled(() => pause, load);

  /** Read again. A broker that was away may never answer the running read. */
  function again() {
    reading?.abort();
    changed();
  }

  const unwatch = live.watch(
    { view: "workflow", queue, id },
    {
      onrows: ({ rows, gone, more }) => (rows.length || more || gone.some((each) => each[0] === queue && each[1] === id)) && changed(),
      onagain: again,
    },
  );
  changed();
  return () => {
    over = true;
    reading?.abort();
    changed.cancel();
    timeline.close();
    unwatch();
  };
}

/** When the next attempt is due, or "under way" after that. */
const attemptDue = (due) => ticking(h("time", { title: whole(due), datetime: machine(due) }), (now) => (due > now ? ago(due, now) : "under way"));

const card = (title, content) => h("section", { class: "card" }, h("h2", {}, title), content);
