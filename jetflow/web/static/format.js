// Times, durations and sizes as people read them.

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();

/** 14:03:22, with the day before it if it is not today. */
export function clock(ms) {
  return sameDay(ms, Date.now()) ? TIME.format(ms) : `${DAY.format(ms)}, ${TIME.format(ms)}`;
}

/** For a title: local time with zone, and UTC. */
export const whole = (ms) => `${WHOLE.format(ms)}\n${new Date(ms).toISOString()}`;

const UNITS = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
];

/** 340 ms, 2.4 s, 3 m 20 s, 2 h 5 m, 3 d 4 h. */
export function duration(ms) {
  if (ms < 0) ms = 0;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  const at = UNITS.findIndex(([, size]) => ms >= size);
  const [unit, size] = UNITS[at];
  const [next, nextSize] = UNITS[at + 1];
  const rest = Math.floor((ms % size) / nextSize);
  return rest ? `${Math.floor(ms / size)} ${unit} ${rest} ${next}` : `${Math.floor(ms / size)} ${unit}`;
}

/** 12 s ago, in 3 h; short, for tables. */
export function ago(ms, now = Date.now()) {
  const passed = now - ms;
  if (Math.abs(passed) < 1000) return "now";
  const text = coarse(Math.abs(passed));
  return passed > 0 ? `${text} ago` : `in ${text}`;
}

function coarse(ms) {
  const [unit, size] = UNITS.find(([, each]) => ms >= each);
  return `${Math.floor(ms / size)} ${unit}`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1000).toFixed(count < 10_000 ? 1 : 0)} kB`;
  if (count < 1_000_000_000) return `${(count / 1_000_000).toFixed(1)} MB`;
  return `${(count / 1_000_000_000).toFixed(1)} GB`;
}

export const number = (value) => value.toLocaleString("en-US");

export const path = (queue, id) => `/workflows/${encodeURIComponent(queue)}/${encodeURIComponent(id)}`;
