// The texts and marks of statuses and of kinds of operations. style.css has their colours, by the same names.

import { h } from "./dom.js";
import { visible } from "./format.js";

export const status = (name, extra) => h("span", { class: `status ${name}`, title: TITLES[name] }, h("i"), extra ?? name);

const TITLES = {
  running: "The workflow runs",
  parked: "The worker that owns it cannot continue it: its code does not fit",
  completed: "Its function returned",
  failed: "Its function raised an error",
  cancelled: "It was asked to cancel, and ended",
  terminated: "It was terminated",
  pending: "Its start is stored and waits for a worker",
};

const WAITS = { signal: "signal", activity: "activity", timer: "timer", child: "child" };

/** What a workflow waits for, in a few words. */
export function waitText(wait) {
  const what = `${WAITS[wait.kind] ?? wait.kind} ${visible(wait.name)}`.trim();
  return wait.attempt > 1 ? `${what}, attempt ${wait.attempt}` : what;
}
