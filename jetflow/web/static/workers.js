// Workers, the partitions they own, what waits for them, and what is stored.

import { get, live } from "./api.js";
import { h, replace, s } from "./dom.js";
import { bytes, number } from "./format.js";
import { since } from "./ticking.js";

const EVERY = 2000;

export function workers(main) {
  document.title = "Workers · jetflow";
  const content = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  replace(main, h("div", { class: "head" }, h("h1", {}, "Workers")), content);
  let timer = 0;
  let over = false;

  async function load() {
    clearTimeout(timer);
    try {
      const found = await get("workers");
      if (over) return;
      replace(
        content,
        queuesOf(found).map((queue) => section(queue, found)),
        found.workers.length || found.consumers.length ? null : noWorkers(),
        stored(found),
      );
    } catch (error) {
      if (!over) replace(content, h("p", { class: "problem" }, error.message));
    }
    if (!over) timer = setTimeout(() => (document.visibilityState === "hidden" ? (timer = setTimeout(load, EVERY)) : load()), EVERY);
  }

  const unwatch = live.watch({ view: "none" }, { onagain: load });
  load();
  return () => {
    over = true;
    clearTimeout(timer);
    unwatch();
  };
}

const queuesOf = (found) => [...new Set([...found.workers, ...found.consumers].map((each) => each.task_queue))].sort();

function section(queue, found) {
  const members = found.workers.filter((each) => each.task_queue === queue);
  const consumers = found.consumers.filter((each) => each.task_queue === queue);
  const owners = [...new Set([...members.map((each) => each.worker_id), ...consumers.map((each) => each.worker_id)])];
  const ownerOf = new Map(consumers.flatMap((each) => each.partitions.map((partition) => [partition, each.worker_id])));
  const alive = new Set(members.map((each) => each.worker_id));
  return h(
    "section",
    { class: "card" },
    h("h2", {}, h("span", { class: "muted" }, "Task queue "), queue),
    h(
      "div",
      { class: "partitions" },
      grid(found.partitions, ownerOf, owners, alive),
      h("small", { class: "muted" }, `${ownerOf.size} of ${found.partitions} partitions have an owner`),
    ),
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Worker", "Host", "Up", "Partitions", "Waiting", "In hand", "Serves"].map((each) => h("th", { scope: "col" }, each)),
        ),
      ),
      h(
        "tbody",
        {},
        owners.map((id, at) => {
          const member = members.find((each) => each.worker_id === id);
          const owned = consumers.filter((each) => each.worker_id === id);
          const sum = (name) => number(owned.reduce((total, each) => total + each[name], 0));
          return h(
            "tr",
            {},
            h("td", {}, h("i", { class: `swatch w${at % 8}` }), h("code", {}, id || "?"), !member && h("span", { class: "tag" }, "gone")),
            h("td", {}, member ? `${member.host}, pid ${member.pid}` : ""),
            h("td", {}, member ? since(member.started_at) : ""),
            h("td", { class: "n" }, number(owned.reduce((total, each) => total + each.partitions.length, 0))),
            h("td", { class: "n", title: "Commands that are stored and not delivered yet" }, sum("waiting")),
            h("td", { class: "n", title: "Commands delivered and not acked: a workflow with work under way keeps one" }, sum("under_way")),
            h(
              "td",
              { class: "serves" },
              member && [
                ...member.workflows.map((name) => h("span", { class: "chip" }, name)),
                ...member.activities.map((name) => h("span", { class: "chip soft" }, name)),
              ],
            ),
          );
        }),
      ),
    ),
  );
}

/** One square a partition, in the colour of its owner. */
function grid(count, ownerOf, owners, alive) {
  const [size, gap, perRow] = [14, 3, 32];
  const lines = Math.ceil(count / perRow);
  return s(
    "svg",
    {
      width: Math.min(count, perRow) * (size + gap),
      height: lines * (size + gap),
      viewBox: `0 0 ${Math.min(count, perRow) * (size + gap)} ${lines * (size + gap)}`,
      role: "img",
      "aria-label": `${ownerOf.size} of ${count} partitions have an owner`,
    },
    Array.from({ length: count }, (_, partition) => {
      const owner = ownerOf.get(partition);
      const colour = owner === undefined ? "nobody" : `w${owners.indexOf(owner) % 8}${alive.has(owner) ? "" : " gone"}`;
      return s(
        "rect",
        { x: (partition % perRow) * (size + gap), y: Math.floor(partition / perRow) * (size + gap), width: size, height: size, rx: 3, class: colour },
        s("title", {}, `partition ${partition}: ${owner === undefined ? "nobody" : `worker ${owner}`}`),
      );
    }),
  );
}

function noWorkers() {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No worker is up"),
    h("p", {}, "Commands are kept until there is one:"),
    h("pre", {}, "jetflow worker package.module --task-queue default"),
  );
}

function stored(found) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Stored"),
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["What", "Stream", "Messages", "Size"].map((each) => h("th", { scope: "col" }, each)),
        ),
      ),
      h(
        "tbody",
        {},
        found.streams.map((each) =>
          h(
            "tr",
            {},
            h("td", {}, each.what),
            h("td", {}, h("code", {}, each.name)),
            h("td", { class: "n" }, number(each.messages)),
            h("td", { class: "n" }, bytes(each.bytes)),
          ),
        ),
      ),
    ),
  );
}
