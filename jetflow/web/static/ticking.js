// Texts that change with time alone. One clock for the whole page; what is no longer shown is forgotten.

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

/** An element whose text is made from the time now, and kept true. */
export function ticking(element, text) {
  element.textContent = text(Date.now());
  texts.add({ element, text, made: Date.now(), seen: false });
  return element;
}

/** "3 m ago", kept true. */
export const since = (ms) => ticking(h("time", { title: whole(ms), datetime: machine(ms) }), (now) => ago(ms, now));

/** How long something has been going on, kept true, or how long it took. */
export function lasting(from, to) {
  if (to !== null && to !== undefined) return h("span", { title: `${whole(from)}\n${whole(to)}` }, duration(to - from));
  return ticking(h("span", { class: "growing" }), (now) => duration(now - from));
}

/** A clock time with everything else in its title. */
export const moment = (ms) => h("time", { title: whole(ms), datetime: machine(ms) }, clock(ms));
