// What statuses and kinds of operations are called, and their marks. Colours are in style.css, by the same names.

import { h } from "./dom.js";
import { visible } from "./format.js";

export const status = (name, extra) => h("span", { class: `status ${name}`, title: TITLES[name] }, h("i"), extra ?? name);

const TITLES = {
  running: "It goes on",
  parked: "It cannot go on with the code of the worker that owns it",
  completed: "Its function returned",
  failed: "Its function raised",
  cancelled: "It was asked to cancel, and ended by that",
  terminated: "It was ended from outside",
  pending: "Its start is stored and waits for a worker",
};

const WAITS = { signal: "signal", activity: "activity", timer: "timer", child: "child" };

/** What a workflow waits for, in a few words. */
export function waitText(wait) {
  const what = `${WAITS[wait.kind] ?? wait.kind} ${visible(wait.name)}`.trim();
  return wait.attempt > 1 ? `${what}, attempt ${wait.attempt}` : what;
}
