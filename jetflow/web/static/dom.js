// Building elements. All data is inserted as text. No code of the page parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value" && "value" in element) element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** h("a", {href, class, onclick}, "text", child, [more children]) */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Call a function at most once in `ms` milliseconds (a number, or a function that returns one), and always once after the last call. */
export function throttled(ms, action) {
  let timer = 0;
  let last = -Infinity;
  const run = async () => {
    try {
      await action();
    } finally {
      last = performance.now();
      timer = 0;
      if (again) call();
    }
  };
  let again = false;
  const call = () => {
    again = Boolean(timer); // while it waits or runs, remember one more call
    if (timer) return;
    const room = typeof ms === "function" ? ms() : ms;
    timer = setTimeout(start, Math.max(0, last + room - performance.now()));
  };
  const start = () => {
    again = false;
    run();
  };
  call.cancel = () => {
    clearTimeout(timer);
    again = false;
  };
  return call;
}

export function toast(text, kind = "ok") {
  const shown = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), kind === "error" ? 8000 : 4000);
}

/** An element that may scroll. The keyboard reaches it while its content is larger than the element. */
export function scrolls(element) {
  const look = () => {
    const more = element.scrollHeight > element.clientHeight + 1 || element.scrollWidth > element.clientWidth + 1;
    if (more) element.setAttribute("tabindex", "0");
    else if (document.activeElement !== element) element.removeAttribute("tabindex");
  };
  new ResizeObserver(look).observe(element);
  element.addEventListener("toggle", look, true);
  return element;
}

/** A table whose rows become cards on narrow screens. `rows` are lists of `td` cells. The roles tell screen readers that it still is a table. */
export const table = (columns, rows) =>
  h(
    "table",
    { class: "plain", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((each, at) => h("th", { scope: "col", role: "columnheader", class: rows[0]?.[at].classList.contains("n") ? "n" : undefined }, each)))),
    h(
      "tbody",
      { role: "rowgroup" },
      rows.map((cells) =>
        h(
          "tr",
          { role: "row" },
          cells.map((cell, at) => {
            cell.setAttribute("role", "cell");
            cell.dataset.label = columns[at];
            return cell;
          }),
        ),
      ),
    ),
  );
