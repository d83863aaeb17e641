// The list of workflows: filters, pages, and changes as they happen.

import { get, live } from "./api.js";
import { throughput } from "./chart.js";
import { h, replace, throttled, toast } from "./dom.js";
import { Filters } from "./filters.js";
import { ago, clock, number, path, visible } from "./format.js";
import { status, waitText } from "./status.js";
import { lasting, since, ticking } from "./ticking.js";

/** Milliseconds to wait for the stream of events before the page is read without it. */
const OPENING = 400;
const MOST_PAUSE = 60_000;

const keyOf = (queue, id) => JSON.stringify([queue, id]);

export function list(main, { about }) {
  document.title = "Workflows · jetflow";
  const rows = new Map(); // key -> {row, element}
  const held = new Map(); // new rows that wait while the mouse is on the table
  const filters = new Filters(about.statuses, begin);
  let cursors = [null];
  let page = 0;
  let next = null;
  let size = 100;
  let loading = null;
  let counting = null;
  let opening = 0;
  let later = 0;
  let took = 0; // milliseconds that reading the last page took
  let counted = 0; // milliseconds that the last count took
  let exactQueue = null;
  let pointing = false;
  let loaded = false;
  let unwatch = () => {};

  const body = h("tbody", { role: "rowgroup" });
  const table = h(
    "table",
    { class: "list", role: "table" },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        ["Status", "Workflow", "Type", "Queue", "Started", "Took", "About"].map((each) => h("th", { scope: "col", role: "columnheader" }, each)),
      ),
    ),
    body,
  );
  const below = h("nav", { class: "pager", "aria-label": "Pages" });
  const news = h("button", { class: "news", type: "button", hidden: true, onclick: () => release() });
  const nothing = h("div", { class: "empty", hidden: true });
  const all = h("small");
  const chart = throughput();

  table.addEventListener("pointerenter", (event) => (pointing = event.pointerType === "mouse"));
  table.addEventListener("pointerleave", () => {
    pointing = false;
    release();
  });

  // ---- rows

  function draw(row) {
    const link = h("a", { href: path(row.queue, row.id), class: "id" }, visible(row.id));
    const cell = (kind, ...children) => h("td", { class: kind, role: "cell" }, children);
    return h(
      "tr",
      { class: row.status, data: { id: row.id, queue: row.queue }, role: "row" },
      cell("c-status", status(row.status), tagOf(row)),
      cell("c-id", link),
      cell("c-type", visible(row.type)),
      cell("c-queue", visible(row.queue)),
      cell("c-time", since(row.started)),
      cell("c-time c-took", lasting(row.started, row.closed)),
      cell("c-about", aboutOf(row)),
    );
  }

  function put(row, { first = false } = {}) {
    const key = keyOf(row.queue, row.id);
    const there = rows.get(key);
    if (there && there.row.updated > row.updated && there.row.run === row.run) return;
    const element = draw(row);
    if (there) {
      if (there.row.status !== row.status) element.classList.add("changed");
      if (there.element.contains(document.activeElement)) requestAnimationFrame(() => element.querySelector("a").focus());
      there.element.replaceWith(element);
    } else if (first) {
      element.classList.add("arrived");
      body.prepend(element);
    } else body.append(element);
    rows.set(key, { row, element });
  }

  function drop(key) {
    rows.get(key)?.element.remove();
    rows.delete(key);
    held.delete(key);
  }

  function release() {
    for (const row of held.values()) put(row, { first: true });
    held.clear();
    while (rows.size > size) drop([...rows].find(([, each]) => each.element === body.lastElementChild)[0]);
    tell();
  }

  function tell() {
    news.hidden = held.size === 0;
    news.textContent = `${held.size} new`;
    table.hidden = rows.size === 0;
    nothing.hidden = rows.size > 0 || !loaded;
    replace(
      below,
      h("button", { type: "button", disabled: page === 0, onclick: () => load(page - 1) }, "Newer"),
      h("span", {}, rows.size ? `${number(page * size + 1)} to ${number(page * size + rows.size)}` : ""),
      h("button", { type: "button", disabled: !next, onclick: () => load(page + 1) }, "Older"),
    );
    below.hidden = page === 0 && !next;
    filters.offer([...rows.values()].map((each) => each.row));
  }

  // ---- loading

  /** Begin at the first page, when the view has opened or the filters have changed. Cancel earlier requests. */
  function begin() {
    loading?.abort();
    counting?.abort();
    clearTimeout(opening);
    clearTimeout(later);
    unwatch();
    [cursors, page, next, exactQueue] = [[null], 0, null, null];
    table.classList.add("loading");
    const { type, queue, text } = filters.values;
    opening = setTimeout(readAnew, OPENING);
    unwatch = live.watch({ view: "list", type, queue, text }, { onrows, onagain: readAnew });
  }

  /** Read what the stream of events has missed. */
  function readAnew() {
    clearTimeout(opening);
    load(page);
    count();
  }

  async function load(wanted) {
    loading?.abort();
    const mine = (loading = new AbortController());
    const began = performance.now();
    table.classList.add("loading");
    try {
      const found = await get("workflows", { ...filters.asked, cursor: cursors[wanted] }, mine.signal);
      if (mine !== loading) return;
      took = performance.now() - began;
      if (wanted !== page) window.scrollTo(0, 0);
      page = wanted;
      next = found.next;
      size = found.size;
      exactQueue = found.queue;
      cursors[page + 1] = next;
      for (const key of [...rows.keys()]) drop(key);
      held.clear();
      for (const row of found.rows) put(row);
      loaded = true;
      replace(nothing, noWorkflows(filters, found));
      tell();
    } catch (error) {
      if (mine !== loading || error.name === "AbortError") return;
      if (loaded) toast(error.message, "error");
      else replace(nothing, h("h2", {}, "The workflows cannot be read"), h("p", { class: "problem" }, error.message));
      nothing.hidden = rows.size > 0;
    } finally {
      if (mine === loading) table.classList.remove("loading");
    }
  }

  /** Count all workflows, and the matches of the filters. The first count is cheap. The second one reads every record. */
  async function count() {
    counting?.abort();
    const mine = (counting = new AbortController());
    const began = performance.now();
    try {
      const { queue, ...others } = filters.values;
      const simple = Object.keys(others).every((name) => name === "status");
      if (simple && !others.status) tellTotal(await get("total", { queue }, mine.signal));
      const found = await get("counts", { ...filters.asked, status: "" }, mine.signal);
      if (mine !== counting) return;
      counted = performance.now() - began;
      filters.count(found);
      clearTimeout(later);
      if (found.again) later = setTimeout(countAgain, found.again); // an older count was returned
      if (!simple || others.status || (queue && queue !== exactQueue)) tellMatches(found);
      else if (found.complete && !found.again) tellTotal(found);
    } catch {
      // the list shows the error; the next change counts again
    }
  }

  function tellTotal({ total }) {
    all.textContent = `${number(total)} ${filters.values.queue ? "on this queue" : "in all"}`;
  }

  function tellMatches({ counts, total, complete }) {
    const wanted = filters.values.status;
    const fit = wanted ? (counts[wanted] ?? 0) : total;
    all.textContent = complete ? `${number(fit)} match` : `${number(fit)} or more match`;
  }

  const countAgain = throttled(() => Math.min(MOST_PAUSE, Math.max(2000, 20 * counted)), count);
  const reload = throttled(() => Math.min(MOST_PAUSE, Math.max(2000, 10 * took)), () => (pointing ? null : load(page)));

  function onrows({ rows: changed, gone, more }) {
    for (const [queue, id] of gone) drop(keyOf(queue, id));
    for (const row of changed) {
      const key = keyOf(row.queue, row.id);
      const fits = filters.fit(row) && (!exactQueue || row.queue === exactQueue);
      if (rows.has(key)) fits ? put(row) : drop(key);
      else if (page === 0 && fits && !filters.values.data && loaded) held.set(key, row);
      else if (held.has(key)) held.delete(key);
    }
    if (!pointing && window.scrollY < 200) release();
    else tell();
    if (more || (filters.values.data && page === 0)) reload();
    countAgain();
  }

  // ---- keyboard

  function onkey(event) {
    if (event.target.closest("input, textarea, select, dialog") || event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      filters.search.focus();
    }
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...body.querySelectorAll("a.id")];
    const at = links.indexOf(document.activeElement);
    if (at < 0 && event.key.startsWith("Arrow")) return;
    event.preventDefault();
    links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
  }

  document.addEventListener("keydown", onkey);
  replace(
    main,
    h("div", { class: "head" }, h("h1", {}, "Workflows ", all), chart.element),
    filters.element,
    h("div", { class: "sheet" }, news, table, nothing),
    below,
  );
  tell();
  begin();
  return () => {
    loading?.abort();
    counting?.abort();
    loading = counting = null;
    clearTimeout(opening);
    clearTimeout(later);
    filters.close();
    reload.cancel();
    countAgain.cancel();
    chart.close();
    unwatch();
    document.removeEventListener("keydown", onkey);
  };
}

function tagOf(row) {
  if (row.cancelling) return h("span", { class: "tag" }, "cancelling");
  return row.retrying && h("span", { class: "tag retrying" }, "retrying");
}

function aboutOf(row) {
  const parts = [];
  const failed = ({ type, message }) => h("span", { class: "failed-text" }, h("b", {}, type), message && ` ${message}`);
  if (["terminated", "cancelled"].includes(row.status) && row.failure) parts.push(h("span", {}, row.failure.message.split(" was terminated: ").at(-1)));
  else if (row.failure) parts.push(failed(row.failure));
  else if (row.parked) parts.push(h("span", { class: "parked-text" }, row.parked));
  else if (row.retrying) parts.push(h("span", {}, attemptOf(row.retrying)), failed(row.retrying.failure));
  else if (row.waits?.length) {
    const more = row.pending > row.waits.length ? ` and ${row.pending - row.waits.length} more` : "";
    parts.push(h("span", {}, row.waits.map(waitText).join(", "), more));
  }
  for (const [name, value] of row.data ?? []) parts.push(h("span", { class: "chip" }, `${name} `, h("b", {}, value)));
  return h("div", {}, parts);
}

/** "charge, attempt 4 in 12 s": the next attempt, and when it is due. */
function attemptOf({ kind, name, attempt, due }) {
  const what = h("span", {}, `${visible(name) || kind}, attempt ${attempt} `);
  if (due) what.append(ticking(h("time", { title: clock(due) }), (now) => (due > now ? ago(due, now) : "under way")));
  return what;
}

function noWorkflows(filters, found) {
  if (found.next)
    return [
      h("h2", {}, "No matches so far"),
      h("p", {}, `None of the ${number(found.examined)} workflows that changed last match. Older ones may.`),
    ];
  if (filters.any)
    return [
      h("h2", {}, "No matching workflows"),
      h("p", {}, h("button", { type: "button", class: "quiet", onclick: () => filters.clear() }, "Show all workflows")),
    ];
  return [
    h("h2", {}, "No workflows yet"),
    h("p", {}, "The first one appears here as soon as it starts:"),
    h("pre", {}, "jetflow start NAME ARGUMENT --id my-first"),
  ];
}
