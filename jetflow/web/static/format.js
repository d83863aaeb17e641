// Times, durations, sizes and names as text.

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();
const sameYear = (a, b) => new Date(a).getFullYear() === new Date(b).getFullYear();

/** The last time that a browser can represent, in the year 275,760. */
const LAST = 8_640_000_000_000_000;
const LATER = "after the year 275,000";
const isKnown = (ms) => Math.abs(ms) <= LAST;

/** 14:03:22, with the day before it if it is not today, and the year if it is not this one. */
export function clock(ms) {
  if (!isKnown(ms)) return LATER;
  if (sameDay(ms, Date.now())) return TIME.format(ms);
  return sameYear(ms, Date.now()) ? `${DAY.format(ms)}, ${TIME.format(ms)}` : DATE.format(ms);
}

/** For a title: local time with zone, and UTC. */
export const whole = (ms) => (isKnown(ms) ? `${WHOLE.format(ms)}\n${new Date(ms).toISOString()}` : LATER);

/** For the `datetime` of a `<time>`. */
export const machine = (ms) => (isKnown(ms) ? new Date(ms).toISOString() : undefined);

const UNITS = [
  ["y", 31_557_600_000],
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
  const most = number(Math.floor(ms / size));
  return rest ? `${most} ${unit} ${rest} ${next}` : `${most} ${unit}`;
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
  return `${number(Math.floor(ms / size))} ${unit}`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1000).toFixed(count < 10_000 ? 1 : 0)} kB`;
  if (count < 1_000_000_000) return `${(count / 1_000_000).toFixed(1)} MB`;
  return `${(count / 1_000_000_000).toFixed(1)} GB`;
}

export const number = (value) => value.toLocaleString("en-US");

/**
 * A task queue or an id as a segment of a path. Browsers resolve `.` and `..`, however they are escaped, and proxies disagree about
 * slashes and percent signs. Such a name is written as in NATS subjects: `=` and two hex digits for a byte.
 */
export function segment(name) {
  return /^\.+$|[/\\%\p{Cc}]/u.test(name) ? token(name) : encodeURIComponent(name);
}

/** The name for a segment that `segment` returned or a user typed. */
export function fromSegment(text) {
  const named = decoded(text.replaceAll("=", "%"));
  return text.includes("=") && token(named) === text ? named : decoded(text);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const token = (name) =>
  [...new TextEncoder().encode(name)]
    .map((byte) => (/[A-Za-z0-9_-]/.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`))
    .join("");

const UNSEEN = /[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\x80-\x9f]/g;

/** A name with visible signs for blanks at its ends, control characters, and characters that change the direction of text. */
export const visible = (name) =>
  name
    .replace(/^ +| +$/g, (blanks) => "␠".repeat(blanks.length))
    .replace(/[\0-\x1f\x7f]/g, (sign) => (sign === "\x7f" ? "␡" : String.fromCodePoint(0x2400 + sign.codePointAt(0))))
    .replace(UNSEEN, (sign) => `<U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);

/** The address of a workflow's page. */
export const path = (queue, id) => `/workflows/${segment(queue)}/${segment(id)}`;
