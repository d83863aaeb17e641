// Requests to the server, and the page's stream of events.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let needToken = () => {};
export const whenTokenIsNeeded = (action) => void (needToken = action);

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The dashboard's server does not answer.");
  }
  const body = await response.json().catch((error) => {
    if (options?.signal?.aborted) throw error; // the request was cancelled during the answer
    return {};
  });
  if (response.status === 401 && path !== "/api/login") needToken();
  if (!response.ok) throw new ApiError(response.status, body.error ?? `The server answered ${response.status}.`);
  return body;
}

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const get = (path, parameters = {}, signal) => call(`/api/${path}${query(parameters)}`, { signal });

export const post = (path, body) =>
  call(`/api/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** The server sends an event each second. After so many milliseconds without one, the page shows that it does not answer. */
const SILENCE = 2500;
const RETRY = 3000;

/**
 * Events while the tab is visible. A hidden tab closes its stream, since browsers allow only six connections to a server.
 * Whenever the stream opens, it calls `onagain`, so that the view reads what it has missed.
 */
class Live {
  constructor() {
    this.listeners = new Set();
    this.interest = {};
    this.handlers = {};
    this.source = null;
    this.retry = 0;
    this.heard = performance.now();
    this.state = "live";
    document.addEventListener("visibilitychange", () => this.#open());
    window.addEventListener("pagehide", () => this.source?.close());
    window.addEventListener("pageshow", (event) => event.persisted && this.#open());
    setInterval(() => this.source && performance.now() - this.heard > SILENCE && this.#say("away", this.heard), 250);
  }

  /** Set the view's interest and its handlers. Returns a function that removes the handlers. */
  watch(interest, handlers) {
    this.interest = interest;
    this.handlers = handlers;
    this.#open();
    return () => {
      if (this.handlers === handlers) this.handlers = {};
    };
  }

  /** `listener(kind, value)`: `state` with {kind: live, away or broker, since}, `tick` and `before` with figures. */
  onstate(listener) {
    this.listeners.add(listener);
  }

  #open() {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
    if (document.visibilityState === "hidden") return;
    if (this.state !== "away") this.heard = performance.now();
    const source = (this.source = new EventSource(`/api/events${query(this.interest)}`));
    source.addEventListener("hello", (event) => {
      const { ticks, broker } = JSON.parse(event.data);
      this.#hear(broker);
      this.#tell("before", ticks);
      this.handlers.onagain?.();
    });
    source.addEventListener("broker", (event) => this.#hearAgain(JSON.parse(event.data)));
    source.addEventListener("tick", (event) => {
      const tick = JSON.parse(event.data);
      this.#hearAgain(tick);
      this.#tell("tick", tick);
    });
    source.addEventListener("rows", (event) => this.handlers.onrows?.(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.#say("away", this.heard);
      if (source.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.#open(), RETRY);
    });
  }

  /** Handle the broker's state in an event of the server. */
  #hear({ connected, silent }) {
    this.heard = performance.now();
    if (connected) this.#say("live");
    else this.#say("broker", this.heard - silent);
  }

  #hearAgain(broker) {
    const wasLive = this.state === "live";
    this.#hear(broker);
    if (!wasLive && this.state === "live") this.handlers.onagain?.(); // read what was missed
  }

  #say(kind, since) {
    this.state = kind;
    this.#tell("state", { kind, since });
  }

  #tell(kind, value) {
    for (const listener of this.listeners) listener(kind, value);
  }
}

export const live = new Live();
