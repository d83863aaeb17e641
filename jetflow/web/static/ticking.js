// Texts that change with time alone. One clock for the whole page; what is no longer shown is forgotten.

import { h } from "./dom.js";
import { ago, clock, duration, whole } from "./format.js";

const ticking = new Set();

setInterval(() => {
  if (document.visibilityState === "hidden") return;
  const now = Date.now();
  for (const each of ticking) {
    if (each.element.isConnected) {
      const text = each.text(now);
      if (each.element.textContent !== text) each.element.textContent = text;
      each.seen = true;
    } else if (each.seen) ticking.delete(each);
    else if (now - each.made > 10_000) ticking.delete(each);
  }
}, 1000);

function tick(element, text) {
  element.textContent = text(Date.now());
  ticking.add({ element, text, made: Date.now(), seen: false });
  return element;
}

/** "3 m ago", kept true. */
export const since = (ms) => tick(h("time", { title: whole(ms), datetime: new Date(ms).toISOString() }), (now) => ago(ms, now));

/** How long something has been going on, kept true, or how long it took. */
export function lasting(from, to) {
  if (to !== null && to !== undefined) return h("span", { title: `${whole(from)}\n${whole(to)}` }, duration(to - from));
  return tick(h("span", { class: "growing" }), (now) => duration(now - from));
}

/** A clock time with everything else in its title. */
export const moment = (ms) => h("time", { title: whole(ms), datetime: new Date(ms).toISOString() }, clock(ms));
