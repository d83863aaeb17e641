// Texts that change with time. The whole page has one clock. It drops texts that are no longer on the page.

import { h } from "./dom.js";
import { ago, clock, duration, machine, whole } from "./format.js";

const texts = new Set();

setInterval(() => {
  if (document.visibilityState === "hidden") return;
  const now = Date.now();
  for (const each of texts) {
    if (each.element.isConnected) {
      const text = each.text(now);
      if (each.element.textContent !== text) each.element.textContent = text;
      each.seen = true;
    } else if (each.seen) texts.delete(each);
    else if (now - each.made > 10_000) texts.delete(each);
  }
}, 1000);

/** An element whose text depends on the time now. It is updated each second. */
export function ticking(element, text) {
  element.textContent = text(Date.now());
  texts.add({ element, text, made: Date.now(), seen: false });
  return element;
}

/** "3 m ago", updated each second. */
export const since = (ms) => ticking(h("time", { title: whole(ms), datetime: machine(ms) }), (now) => ago(ms, now));

/** How long something took, or how long it has been running so far, updated each second. */
export function lasting(from, to) {
  if (to !== null && to !== undefined) return h("span", { title: `${whole(from)}\n${whole(to)}` }, duration(to - from));
  return ticking(h("span", { class: "growing" }), (now) => duration(now - from));
}

/** A clock time, with date and zone in its title. */
export const moment = (ms) => h("time", { title: whole(ms), datetime: machine(ms) }, clock(ms));
