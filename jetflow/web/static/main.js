// The frame of the page: the bar on top, and the view for each address.

import { ApiError, get, live, post, whenTokenIsNeeded } from "./api.js";
import { sparkline } from "./chart.js";
import { field } from "./dialogs.js";
import { h, replace, toast } from "./dom.js";
import { duration, fromSegment } from "./format.js";
import { letters } from "./letters.js";
import { list } from "./list.js";
import { workers } from "./workers.js";
import { workflow } from "./workflow.js";

const VIEWS = [
  { nav: "Workflows", href: "/", match: /^\/$/, show: list },
  { match: /^\/workflows\/([^/]+)\/([^/]+)$/, show: workflow },
  { nav: "Workers", href: "/workers", match: /^\/workers$/, show: workers },
  { nav: "Dead letters", href: "/dead-letters", match: /^\/dead-letters$/, show: letters },
];

const main = document.getElementById("main");
const notice = document.getElementById("notice");
const state = h("span", { class: "live" }, h("i"), h("span", {}, "live"));
const spark = sparkline();
let about = { read_only: false };
let close = () => {};

/** Go to another address without reloading the page. */
export function go(href, { replaced = false } = {}) {
  history[replaced ? "replaceState" : "pushState"](null, "", href);
  render();
}

function render() {
  close();
  close = () => {};
  const view = VIEWS.find((each) => each.match.test(location.pathname));
  drawBar();
  if (!view) {
    document.title = "jetflow";
    replace(main, h("div", { class: "empty" }, h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "/" }, "All workflows"))));
    return;
  }
  const parameters = location.pathname.match(view.match).slice(1).map(fromSegment);
  try {
    close = view.show(main, { about, go }, ...parameters) ?? close;
  } catch (error) {
    toast(error.message, "error");
    throw error;
  }
}

function drawBar() {
  const links = VIEWS.filter((each) => each.nav).map((each) => {
    const here = each.match.test(location.pathname) || (each.href === "/" && location.pathname.startsWith("/workflows/"));
    return h("a", { href: each.href, "aria-current": here ? "page" : undefined }, each.nav);
  });
  replace(
    document.getElementById("bar"),
    h("a", { href: "/", class: "brand", "aria-label": "jetflow, all workflows" }, h("i"), "jetflow"),
    h("nav", {}, links),
    h("span", { class: "space" }),
    about.read_only && h("span", { class: "badge" }, "read-only"),
    spark.element,
    h("span", { class: "place", title: `namespace ${about.namespace} on ${about.server}, jetflow ${about.version}` }, about.namespace ?? ""),
    state,
  );
}

/** The state of the connection: a word in the bar, and a sentence below it. */
const STATES = {
  live: { word: "live", title: "Changes are shown as they happen" },
  away: { word: "no dashboard", title: "The dashboard's server does not answer. The page tries again until it does." },
  broker: { word: "no broker", title: "The broker does not answer. This page shows old data. It updates itself when the broker answers again." },
};
let shown = "";
let since = 0;

function showState(kind, from) {
  since = from;
  if (kind !== shown) {
    shown = kind;
    const { word, title } = STATES[kind];
    state.className = `live ${kind}`;
    state.title = title;
    state.lastChild.textContent = word;
    replace(notice, kind !== "live" && [h("p", { role: "alert" }, title), h("p", { class: "silence" })]);
    notice.hidden = kind === "live";
  }
  const silence = notice.querySelector(".silence");
  const seconds = Math.floor((performance.now() - since) / 1000);
  if (silence) silence.textContent = `No answer for ${seconds < 60 ? `${seconds} s` : duration(1000 * seconds)}`;
}

setInterval(() => shown !== "live" && shown && showState(shown, since), 500);

live.onstate((kind, value) => {
  if (kind === "state") showState(value.kind, value.since);
  if (kind === "before") spark.begin(value);
  if (kind === "tick") spark.add(value);
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='/']");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.target) return;
  event.preventDefault();
  go(link.getAttribute("href"));
  window.scrollTo(0, 0);
});
window.addEventListener("popstate", render);

let asking = false;
whenTokenIsNeeded(() => {
  if (asking) return;
  asking = true;
  close();
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true });
  const problem = h("p", { class: "problem", role: "alert" });
  const enter = async (event) => {
    event.preventDefault();
    try {
      await post("login", { token: token.value });
      location.reload();
    } catch (error) {
      problem.textContent = error instanceof ApiError && error.status === 401 ? "This is not the token." : error.message;
    }
  };
  replace(
    main,
    h(
      "form",
      { class: "login", onsubmit: enter },
      h("h1", {}, "This dashboard needs a token"),
      h("p", {}, "The command that started the dashboard printed the token, or took it from ", h("code", {}, "JETFLOW_UI_TOKEN"), "."),
      field("Token", token),
      problem,
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Enter")),
    ),
  );
  token.focus();
});

if (new URLSearchParams(location.search).has("token")) {
  const left = new URLSearchParams(location.search);
  left.delete("token");
  history.replaceState(null, "", `${location.pathname}${left.size ? `?${left}` : ""}`);
}

const AGAIN = 2000;

async function begin() {
  try {
    about = await get("about");
  } catch (error) {
    if (asking) return;
    replace(main, h("div", { class: "empty" }, h("h1", {}, "The dashboard cannot be reached"), h("p", {}, `${error.message} Trying again…`)));
    setTimeout(begin, AGAIN);
    return;
  }
  render();
}

drawBar();
begin();
