// The connection: server-sent events while the page is seen, and a request now and then while it is not. What does not respond is noticed by a
// request as well, because a connection that was cut silently looks like one without news.

import { get, ApiError } from "./api.js";

const quiet = 15_000; // without an event, the state is requested
const hiddenPoll = 60_000; // a browser allows few connections to one server, so pages in the background hold none
const firstRetry = 1000;
const lastRetry = 30_000;

/** Live calls on.overview and on.series with what arrives, and on.lost with an ApiError when nothing does. */
export class Live {
  constructor(on) {
    this.on = on;
    this.retry = firstRetry;
    this.heard = 0;
    this.run = 0; // of start: what an earlier one had begun is ignored
    document.addEventListener("visibilitychange", () => this.start());
    addEventListener("online", () => this.start());
  }

  /** start connects again, at once. */
  start() {
    this.stop();
    const run = ++this.run;
    if (document.hidden) {
      this.later(run, hiddenPoll, () => this.poll(run));
      return;
    }
    this.events = new EventSource("/api/events");
    const received = (show) => (event) => {
      if (run !== this.run) return;
      this.retry = firstRetry;
      this.heard = Date.now();
      show(JSON.parse(event.data));
    };
    this.events.addEventListener("overview", received((d) => this.on.overview(d)));
    this.events.addEventListener("series", received((d) => this.on.series(d)));
    this.events.addEventListener("error", () => run === this.run && this.fail(run));
    this.heard = Date.now();
    this.later(run, quiet, () => this.watch(run));
  }

  stop() {
    clearTimeout(this.timer);
    this.events?.close();
    this.events = null;
  }

  later(run, ms, what) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => run === this.run && what(), ms);
  }

  /** watch requests the state when the stream is quiet for long. */
  async watch(run) {
    const silent = Date.now() - this.heard;
    if (silent >= quiet) {
      try {
        const document = await get("/api/overview");
        if (run !== this.run) return;
        this.on.overview(document);
      } catch (err) {
        if (run === this.run) this.again(run, err);
        return;
      }
      this.heard = Date.now();
    }
    this.later(run, Math.max(1000, quiet - (Date.now() - this.heard)), () => this.watch(run));
  }

  /** fail finds out why the stream ended: EventSource does not say it. */
  async fail(run) {
    this.events?.close();
    this.events = null;
    clearTimeout(this.timer);
    try {
      const document = await get("/api/overview");
      if (run !== this.run) return;
      this.on.overview(document);
      this.again(run, null);
    } catch (err) {
      if (run === this.run) this.again(run, err);
    }
  }

  again(run, err) {
    this.stop();
    if (err) this.on.lost(err instanceof ApiError ? err : new ApiError(0, "page", { en: String(err), zh: String(err) }));
    const wait = this.retry * (0.75 + Math.random() / 2); // browsers do not return all at once
    this.retry = Math.min(lastRetry, this.retry * 2);
    this.later(run, wait, () => this.start());
  }

  async poll(run) {
    try {
      const document = await get("/api/overview");
      if (run === this.run) this.on.overview(document);
    } catch (err) {
      if (run === this.run) this.on.lost(err);
    }
    this.later(run, hiddenPoll, () => this.poll(run));
  }
}
