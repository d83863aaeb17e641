// The list of workflows: filters, pages, and changes as they happen.

import { get, live } from "./api.js";
import { throughput } from "./chart.js";
import { h, replace, throttled, toast } from "./dom.js";
import { number, path } from "./format.js";
import { STATUSES, status, waitText } from "./status.js";
import { lasting, since } from "./ticking.js";

const FILTERS = ["status", "type", "queue", "text", "data"];
const keyOf = (row) => `${row.queue}\n${row.id}`;

export function list(main, { go }) {
  document.title = "Workflows · jetflow";
  const asked = Object.fromEntries([...new URLSearchParams(location.search)].filter(([name]) => FILTERS.includes(name)));
  const filtered = Object.keys(asked).length > 0;
  const rows = new Map(); // key -> {row, element}
  const held = new Map(); // new rows while somebody points at the table
  const cursors = [null];
  let page = 0;
  let next = null;
  let size = 100;
  let loading = null;
  let pointing = false;
  let loaded = false;

  const body = h("tbody");
  const table = h(
    "table",
    { class: "list" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Status", "Workflow", "Type", "Queue", "Started", "Took", "About"].map((each) => h("th", { scope: "col" }, each)),
      ),
    ),
    body,
  );
  const below = h("div", { class: "pager" });
  const news = h("button", { class: "news", type: "button", hidden: true, onclick: () => release() });
  const nothing = h("div", { class: "empty", hidden: true });
  const all = h("small");
  const chart = throughput();
  const types = h("datalist", { id: "types" });
  const queues = h("datalist", { id: "queues" });

  table.addEventListener("pointerenter", (event) => (pointing = event.pointerType === "mouse"));
  table.addEventListener("pointerleave", () => {
    pointing = false;
    release();
  });

  // ---- filters

  function change(name, value) {
    const wanted = { ...asked, [name]: value.trim() };
    const query = new URLSearchParams(FILTERS.filter((each) => wanted[each]).map((each) => [each, wanted[each]]));
    go(`/${query.size ? `?${query}` : ""}`, { replaced: true });
    document.querySelector(`[name="${name}"]`)?.focus();
  }

  const input = (name, label, attributes) =>
    h("input", {
      name,
      value: asked[name] ?? "",
      placeholder: label,
      "aria-label": label,
      autocomplete: "off",
      spellcheck: "false",
      class: asked[name] ? "set" : "",
      onchange: (event) => change(name, event.target.value),
      onkeydown: (event) => event.key === "Escape" && asked[name] && change(name, ""),
      ...attributes,
    });

  const tabs = h(
    "div",
    { class: "tabs", role: "group", "aria-label": "Status" },
    ["", ...STATUSES].map((name) =>
      h(
        "button",
        { type: "button", class: name, "aria-pressed": String((asked.status ?? "") === name), onclick: () => change("status", name) },
        name && h("i"),
        name || "all",
      ),
    ),
  );
  const search = input("text", "Id contains…", { type: "search", "aria-keyshortcuts": "/" });
  const filters = h(
    "div",
    { class: "filters" },
    tabs,
    search,
    input("type", "Type", { list: "types", size: 14 }),
    input("queue", "Task queue", { list: "queues", size: 14 }),
    input("data", "Data, as field=value", { size: 18 }),
    filtered && h("button", { type: "button", class: "quiet", onclick: () => go("/") }, "Clear"),
    types,
    queues,
  );

  // ---- rows

  function draw(row) {
    const link = h("a", { href: path(row.queue, row.id), class: "id" }, row.id);
    return h(
      "tr",
      { class: row.status, data: { id: row.id } },
      h("td", { class: "c-status" }, status(row.status), row.cancelling && h("span", { class: "tag" }, "cancelling")),
      h("td", { class: "c-id" }, link),
      h("td", { class: "c-type" }, row.type),
      h("td", { class: "c-queue" }, row.queue),
      h("td", { class: "c-time" }, since(row.started)),
      h("td", { class: "c-time c-took" }, lasting(row.started, row.closed)),
      h("td", { class: "c-about" }, aboutOf(row)),
    );
  }

  const fits = (row) => !asked.status || row.status === asked.status || (asked.status === "running" && row.status === "parked");

  function put(row, { first = false } = {}) {
    const key = keyOf(row);
    const there = rows.get(key);
    const element = draw(row);
    if (there) {
      if (there.row.updated > row.updated && there.row.run === row.run) return;
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
    remember();
  }

  /** Types and queues that were seen are offered in the filters. */
  function remember() {
    const offer = (element, values) =>
      replace(
        element,
        [...new Set(values)].sort().map((value) => h("option", { value })),
      );
    const all = [...rows.values()].map((each) => each.row);
    offer(
      types,
      all.map((row) => row.type),
    );
    offer(
      queues,
      all.map((row) => row.queue),
    );
  }

  // ---- loading

  async function load(wanted) {
    loading?.abort();
    const mine = (loading = new AbortController());
    table.classList.add("loading");
    try {
      const found = await get("workflows", { ...asked, cursor: cursors[wanted] }, mine.signal);
      if (mine !== loading) return;
      if (wanted !== page) window.scrollTo(0, 0);
      page = wanted;
      next = found.next;
      size = found.size;
      cursors[page + 1] = next;
      for (const key of [...rows.keys()]) drop(key);
      held.clear();
      for (const row of found.rows) put(row);
      loaded = true;
      replace(nothing, noWorkflows(filtered, found));
      tell();
    } catch (error) {
      if (mine !== loading || error.name === "AbortError") return;
      toast(error.message, "error");
    } finally {
      if (mine === loading) table.classList.remove("loading");
    }
  }

  const countAll = throttled(5000, async () => {
    const { total } = await get("total", { queue: asked.queue }).catch(() => ({}));
    if (total !== undefined) all.textContent = `${number(total)} ${asked.queue ? "on this queue" : "in all"}`;
  });
  const reload = throttled(2000, () => (pointing ? null : load(page)));

  function onrows({ rows: changed, gone, more }) {
    for (const [queue, id] of gone) drop(`${queue}\n${id}`);
    for (const row of changed) {
      const key = keyOf(row);
      if (rows.has(key)) fits(row) ? put(row) : drop(key);
      else if (page === 0 && fits(row) && !asked.data && loaded) held.set(key, row);
      else if (held.has(key)) held.delete(key);
    }
    if (!pointing && window.scrollY < 200) release();
    else tell();
    if (more || (asked.data && page === 0)) reload();
    countAll();
  }

  // ---- keyboard

  function onkey(event) {
    if (event.target.closest("input, textarea, dialog") || event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
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
    h("div", { class: "head" }, h("h1", {}, "Workflows", all), chart.element),
    filters,
    h("div", { class: "sheet" }, news, table, nothing),
    below,
  );
  tell();
  const unwatch = live.watch({ view: "list", type: asked.type, queue: asked.queue, text: asked.text }, { onrows, onagain: () => load(page) });
  load(0);
  countAll();
  return () => {
    loading?.abort();
    loading = null;
    reload.cancel();
    countAll.cancel();
    chart.close();
    unwatch();
    document.removeEventListener("keydown", onkey);
  };
}

function aboutOf(row) {
  const parts = [];
  if (row.status === "terminated" && row.failure) parts.push(h("span", {}, row.failure.message.split(" was terminated: ").at(-1)));
  else if (row.failure)
    parts.push(h("span", { class: "failed-text" }, h("b", {}, row.failure.type), row.failure.message && ` ${row.failure.message}`));
  else if (row.parked) parts.push(h("span", { class: "parked-text" }, row.parked));
  else if (row.waits?.length) {
    const more = row.pending > row.waits.length ? ` and ${row.pending - row.waits.length} more` : "";
    parts.push(h("span", {}, row.waits.map(waitText).join(", "), more));
  }
  for (const [name, value] of row.data ?? []) parts.push(h("span", { class: "chip" }, `${name} `, h("b", {}, value)));
  return h("div", {}, parts);
}

function noWorkflows(filtered, found) {
  if (found.next)
    return [
      h("h2", {}, "None so far"),
      h("p", {}, `Among the ${number(found.examined)} that changed last there is none like that. Older ones may be.`),
    ];
  if (filtered) return [h("h2", {}, "No workflow is like that"), h("p", {}, h("a", { href: "/" }, "Show all workflows"))];
  return [
    h("h2", {}, "No workflows yet"),
    h("p", {}, "The first one appears here as soon as it starts:"),
    h("pre", {}, "jetflow start NAME ARGUMENT --id my-first"),
  ];
}
