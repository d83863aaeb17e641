// Workers, their partitions, the commands that wait for them, and the sizes of the streams.

import { get, live } from "./api.js";
import { h, replace, s, scrolls, table } from "./dom.js";
import { bytes, number, visible } from "./format.js";
import { since } from "./ticking.js";

const EVERY = 2000;

/** Width of the margins of page and card beside the partitions, in pixels. */
const BESIDE = 64;

export function workers(main) {
  document.title = "Workers · jetflow";
  const content = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  const trouble = h("div");
  replace(main, h("div", { class: "head" }, h("h1", {}, "Workers")), trouble, content);
  let timer = 0;
  let over = false;

  async function load() {
    clearTimeout(timer);
    try {
      const found = await get("workers");
      if (over) return;
      replace(trouble);
      replace(
        content,
        queuesOf(found).map((queue) => section(queue, found)),
        found.workers.length || found.consumers.length ? null : noWorkers(),
        stored(found),
      );
    } catch (error) {
      if (!over) replace(trouble, h("p", { class: "problem", role: "alert" }, error.message));
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
    h("h2", {}, h("span", { class: "muted" }, "Task queue "), visible(queue)),
    h(
      "div",
      { class: "partitions" },
      scrolls(h("div", { class: "squares", role: "group", "aria-label": "Partitions" }, grid(found.partitions, ownerOf, owners, alive))),
      h("small", { class: "muted" }, `${ownerOf.size} of ${found.partitions} partitions have an owner`),
    ),
    table(
      ["Worker", "Host", "Up", "Partitions", "Waiting", "Un-acked", "Serves"],
      owners.map((id, at) => {
        const member = members.find((each) => each.worker_id === id);
        const owned = consumers.filter((each) => each.worker_id === id);
        const sum = (name) => number(owned.reduce((total, each) => total + each[name], 0));
        return [
          h("td", {}, h("span", {}, h("i", { class: `swatch w${at % 8}` }), h("code", {}, id || "?"), !member && h("span", { class: "tag" }, "gone"))),
          h("td", {}, member ? `${member.host}, pid ${member.pid}` : ""),
          h("td", {}, member ? since(member.started_at) : ""),
          h("td", { class: "n" }, number(owned.reduce((total, each) => total + each.partitions.length, 0))),
          h("td", { class: "n", title: "Commands stored and not delivered yet" }, sum("waiting")),
          h("td", { class: "n", title: "Commands delivered and not acked; a workflow with a running activity has at least one" }, sum("under_way")),
          h(
            "td",
            { class: "serves" },
            member &&
              h("span", {}, [
                ...member.workflows.map((name) => h("span", { class: "chip" }, name)),
                ...member.activities.map((name) => h("span", { class: "chip soft" }, name)),
              ]),
          ),
        ];
      }),
    ),
  );
}

/** One square for each partition, in the colour of its owner. */
function grid(count, ownerOf, owners, alive) {
  const [size, gap] = [14, 3];
  const perRow = Math.max(8, Math.min(32, Math.floor((innerWidth - BESIDE) / (size + gap))));
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
        s("title", {}, `partition ${partition}: ${owner === undefined ? "no owner" : `worker ${owner}`}`),
      );
    }),
  );
}

function noWorkers() {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No worker is up"),
    h("p", {}, "The broker stores commands until a worker is up. Start one:"),
    h("pre", {}, "jetflow worker package.module --task-queue default"),
  );
}

function stored(found) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Stored"),
    table(
      ["What", "Stream", "Messages", "Size"],
      found.streams.map((each) => [
        h("td", {}, each.what),
        h("td", {}, h("code", {}, each.name)),
        h("td", { class: "n" }, number(each.messages)),
        h("td", { class: "n" }, bytes(each.bytes)),
      ]),
    ),
  );
}
