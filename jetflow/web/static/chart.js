// Throughput: workflows started and ended per second.

import { h, replace, s } from "./dom.js";
import { number } from "./format.js";

const WINDOWS = [30, 60, 120]; // seconds; the chart uses the first one that holds all known figures
const series = [];
const charts = new Set();

function remember(ticks) {
  series.push(...ticks);
  series.splice(0, series.length - WINDOWS.at(-1));
  for (const chart of charts) chart.draw();
}

const seconds = () => WINDOWS.find((each) => each >= series.length);

/** The next round number at or above a value. */
function ceiling(value) {
  if (value <= 5) return 5;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

function line(name, width, height, top) {
  const step = width / (seconds() - 1);
  const from = seconds() - series.length;
  return series
    .map((each, at) => `${at ? "L" : "M"}${((from + at) * step).toFixed(1)} ${(height - (each[name] / top) * height).toFixed(1)}`)
    .join("");
}

function area(path, width, height) {
  if (!path) return "";
  const from = (seconds() - series.length) * (width / (seconds() - 1));
  return `${path}L${width} ${height}L${from.toFixed(1)} ${height}Z`;
}

/** The small chart in the bar. It also stores the figures. */
export function sparkline() {
  const [width, height] = [72, 18];
  const picture = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", preserveAspectRatio: "none" });
  const text = h("span", {}, "");
  const element = h(
    "span",
    { class: "spark", title: "Workflows started in the last second; the line shows at most the last two minutes" },
    picture,
    text,
  );
  return {
    element,
    /** Begin with the figures from before the page was opened, if the server has them. */
    begin(ticks) {
      series.length = 0;
      remember(ticks);
    },
    add(tick) {
      remember([tick]);
      const path = line("starts", width, height - 2, ceiling(Math.max(...series.map((each) => each.starts))));
      replace(picture, s("path", { d: path, class: "l-starts", transform: "translate(0 1)" }));
      text.textContent = `${number(tick.starts)}/s`;
    },
  };
}

/** The chart with axes. Returns its element and a function that ends it. */
export function throughput() {
  const [width, height] = [480, 56];
  const picture = s("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "throughput",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": "Starts and ends per second",
  });
  const most = h("span", { class: "t-most" });
  const starts = h("b");
  const closes = h("b");
  const span = h("span", { class: "muted" });
  const chart = {
    element: h(
      "figure",
      { class: "chart" },
      h(
        "figcaption",
        {},
        h("span", { class: "key k-starts" }, h("i"), starts, " started/s"),
        h("span", { class: "key k-closes" }, h("i"), closes, " ended/s"),
        h("span", { class: "space" }),
        span,
      ),
      h("div", { class: "plot" }, picture, most),
    ),
    draw() {
      const top = ceiling(Math.max(1, ...series.map((each) => Math.max(each.starts, each.closes))));
      const [started, closed] = [line("starts", width, height, top), line("closes", width, height, top)];
      replace(
        picture,
        s("path", { d: `M0 ${height / 2}H${width}M0 0.5H${width}M0 ${height - 0.5}H${width}`, class: "grid" }),
        s("path", { d: area(started, width, height), class: "a-starts" }),
        s("path", { d: closed, class: "l-closes" }),
        s("path", { d: started, class: "l-starts" }),
      );
      most.textContent = `${number(top)}/s`;
      span.textContent = seconds() < 120 ? `last ${seconds()} s` : "last 2 min";
      const last = series.at(-1);
      starts.textContent = last ? number(last.starts) : "–";
      closes.textContent = last ? number(last.closes) : "–";
    },
    close: () => charts.delete(chart),
  };
  charts.add(chart);
  chart.draw();
  return chart;
}
