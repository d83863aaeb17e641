// Talking to the server: calls, and the one stream of events of the page.

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
  } catch {
    throw new ApiError(0, "The dashboard's server does not answer.");
  }
  const body = await response.json().catch(() => ({}));
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

/**
 * Events while somebody looks. A hidden tab listens to nothing, since browsers allow only six connections to a server;
 * whenever they begin to come, `onagain` is called: what happened before, since the page was read, has to be read.
 */
class Live {
  constructor() {
    this.listeners = new Set();
    this.interest = {};
    this.handlers = {};
    this.source = null;
    this.retry = 0;
    document.addEventListener("visibilitychange", () => this.#open());
    window.addEventListener("pagehide", () => this.source?.close());
    window.addEventListener("pageshow", (event) => event.persisted && this.#open());
  }

  /** What the page shows now: what to hear of, and who takes it. Returns what ends it. */
  watch(interest, handlers) {
    this.interest = interest;
    this.handlers = handlers;
    this.#open();
    return () => {
      if (this.handlers === handlers) this.handlers = {};
    };
  }

  onstate(listener) {
    this.listeners.add(listener);
  }

  #open() {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
    if (document.visibilityState === "hidden") return;
    const source = (this.source = new EventSource(`/api/events${query(this.interest)}`));
    source.addEventListener("hello", (event) => {
      this.#tell("state", "live");
      this.#tell("before", JSON.parse(event.data).ticks);
      this.handlers.onagain?.();
    });
    source.addEventListener("tick", (event) => this.#tell("tick", JSON.parse(event.data)));
    source.addEventListener("rows", (event) => this.handlers.onrows?.(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.#tell("state", "away");
      if (source.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.#open(), 3000);
    });
  }

  #tell(kind, value) {
    for (const listener of this.listeners) listener(kind, value);
  }
}

export const live = new Live();
