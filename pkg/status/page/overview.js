// The first page: is it well, and if not, what to do; then everything else.

import { actionButton, fixStuck, grant, pause, pauseModel, resume, scopeText, askSignIn } from "./actions.js";
import { currentSession } from "./api.js";
import { at, code, h, table, update, value, visible } from "./dom.js";
import { clock, dateTime, duration, number } from "./format.js";
import { both, lang, named, t } from "./text.js";
import { Charts } from "./charts.js";

/** taskLink links to a task's own page. */
export const taskLink = (id) => h("a", { href: "#/tasks/" + encodeURIComponent(id), class: "id" }, code(id));

/** searchLink links to the tasks of a user or with an error code. */
export const searchLink = (text, label) => h("a", { href: "#/search/" + encodeURIComponent(text), class: "id" }, label ?? code(text));

/** badge shows a state by color, form and word. */
export const badge = (kind, text) => h("span", { class: "badge " + kind }, text);

const kinds = { completed: "good", failed: "bad", cancelled: "muted", pending: "muted", processing: "info" };

export const stateBadge = (state) => badge(kinds[state] ?? "muted", named("", state));

const noTime = (time) => !time || time.startsWith("0001-");

/** since shows when something began, and how long ago that was. */
const since = (time, asOf) => noTime(time) ? "–" : [at(dateTime(time)), h("span", { class: "note block" }, duration((Date.parse(asOf) - Date.parse(time)) / 1000))];

/** windowText shows a duration as Go writes it: 24h. */
const windowText = (text) => t("hours", { n: parseInt(text, 10) || 24 });

export function commandLine(text) {
  if (!text) return null;
  const copy = h("button", { type: "button", class: "small", "data-key": "copy-" + text, onclick: async () => {
    await navigator.clipboard?.writeText(text);
    copy.textContent = t("copied");
  } }, t("copy"), h("span", { class: "hidden" }, ": " + visible(text)));
  // Browsers give pages the clipboard only over https or on the machine itself.
  return h("span", { class: "command" }, code(text), navigator.clipboard ? copy : null);
}

function problem(p, n) {
  const act = { tasks_stuck: () => actionButton("problem-" + n, t("fixStuck"), fixStuck, { class: "danger" }),
    claiming_paused: () => actionButton("problem-" + n, t("resume"), () => resume("queue", "")) }[p.code]?.();
  const severity = p.severity === "error" ? "bad" : "warn";
  return h("li", { class: "problem " + severity },
    h("p", { class: "what" }, badge(severity, named("severity_", p.severity)), " ", value(both(p.what))),
    p.hint || p.do || act ? h("div", { class: "todo" }, h("strong", {}, t("whatToDo")), p.hint ? h("p", {}, value(both(p.hint))) : null,
      h("p", { class: "run" }, commandLine(p.do), act)) : null);
}

function verdict(d) {
  const stateless = d.paused.length === 0 ? null : h("ul", { class: "paused" }, d.paused.map((p, n) => h("li", {}, badge("warn", t("paused")), " ",
    h("bdi", {}, scopeText(p.scope, p.name)), noTime(p.since) ? null : [t("comma"), t("since", { time: dateTime(p.since) })], p.by ? [t("comma"), t("pausedBy", { by: visible(p.by) })] : null,
    p.reason ? [": ", value(p.reason)] : null, " ", actionButton("resume-" + n, t("resume"), () => resume(p.scope, p.name), { class: "small", "aria-label": t("resume") + ": " + scopeText(p.scope, p.name) }))));
  return [
    d.database.ok ? null : h("p", { class: "problem bad" }, t(d.as_of ? "databaseDown" : "databaseNever", { time: dateTime(d.database.since), reason: visible(d.database.error), asOf: dateTime(d.as_of) })),
    d.problems.length > 0 ? h("ol", { class: "problems" }, d.problems.map(problem)) : null,
    d.well ? h("p", { class: "note" }, t("wellDetail", { completed: number(d.tasks.completed), failed: number(d.tasks.failed), window: windowText(d.tasks.closed_window) })) : null,
    stateless,
  ];
}

export const verdictText = (d) => d.well ? t("well") : d.problems.length === 1 || !d.problems.length ? t("problem", { n: 1 }) : t("problems", { n: d.problems.length });

function tiles(d) {
  const k = d.tasks;
  const limit = d.processors.filter((p) => p.alive).reduce((sum, p) => sum + p.concurrency, 0);
  const last = t("lastWindow", { window: windowText(k.closed_window) });
  const tile = (name, n, note, kind) => h("div", { class: "tile " + (kind ?? ""), id: "tile-" + name }, h("dt", {}, t(name)), h("dd", {}, h("span", { class: "value" }, number(n)), h("span", { class: "note" }, note)));
  return h("dl", { class: "tiles" },
    tile("due", k.due, k.due > 0 ? t("dueNote", { age: duration(d.oldest_due_seconds) }) : t("dueNone")), tile("later", k.later, t("laterNote")),
    tile("processing", k.processing, limit > 0 ? t("processingNote", { n: number(limit) }) : ""), tile("stuck", k.stuck, t("stuckNote"), k.stuck > 0 && "bad"),
    tile("completed", k.completed, last), tile("failed", k.failed, last), tile("cancelled", k.cancelled, last));
}

function toolbar(d) {
  const s = currentSession();
  if (!s.token_set) return h("p", { class: "note" }, t("actionsOff"));
  if (!s.signed_in) return h("p", { class: "note" }, t("signInText"), " ", h("button", { type: "button", class: "small", "data-key": "sign-in-here", onclick: askSignIn }, t("signIn")));
  const paused = d.paused.some((p) => p.scope === "queue");
  return h("div", { class: "buttons", role: "group", "aria-label": t("actions") },
    paused ? actionButton("queue", t("resumeQueue"), () => resume("queue", "")) : actionButton("queue", t("pauseQueue"), () => pause("queue", "")),
    actionButton("fix", t("fixStuck"), fixStuck), actionButton("grant", t("grant"), () => grant()));
}

function processors(d) {
  return table("processors", t("processors"), [{ title: t("host") }, { title: t("state") }, { title: t("inFlight"), number: true }, { title: t("heartbeat") }, { title: t("completed"), number: true },
    { title: t("failed"), number: true }, { title: t("started") }, { title: t("version") }, { title: t("pid"), number: true }],
  d.processors.map((p) => [value(p.host), p.alive ? noTime(p.leases_failing_since) ? badge("good", t("alive")) : badge("bad", t("leases")) : badge("bad", t("silent")),
    t("ofLimit", { n: number(p.in_flight), limit: number(p.concurrency) }), duration(p.silent_seconds), number(p.completed), number(p.failed), at(dateTime(p.started)), value(p.version), String(p.pid)]), t("noProcessors"));
}

/** circuit shows the state of something, and why. */
function circuit(c, paused) {
  const kind = { closed: "good", open: "bad", half_open: "warn" }[c.state] ?? "muted";
  return [badge(kind, named("state_", c.state)), paused ? [" ", badge("warn", t("state_paused"))] : null,
    c.reason ? h("span", { class: "reason" }, value(c.reason), c.hint ? [" ", h("em", {}, value(both(c.hint)))] : null,
      noTime(c.next_trial) ? null : h("span", { class: "note" }, " · " + t("nextTrial", { time: clock(c.next_trial) })),
      c.hosts?.length > 0 ? h("span", { class: "note" }, " · " + t("onHosts", { hosts: visible(c.hosts.join(", ")) })) : null) : null];
}

function switchButton(scope, name, paused, n) {
  const label = paused ? t("resume") : t("pause");
  return actionButton(scope + "-" + n, label, () => (paused ? resume : pause)(scope, name), { class: "small", "aria-label": label + ": " + scopeText(scope, name) });
}

/** withAction adds the column of actions for those who may act. */
const withAction = (columns) => currentSession().signed_in ? [...columns, { title: t("action") }] : columns;
const withButton = (cells, button) => currentSession().signed_in ? [...cells, button ?? ""] : cells;

function routes(d) {
  const limits = (e) => [e.concurrency > 0 ? t("atATime", { n: number(e.concurrency) }) : null, e.rate > 0 ? t("perMinute", { n: number(e.rate) }) : null].filter(Boolean).join(", ") || "–";
  const group = (key, ...content) => [h("h3", {}, t(key)), ...content];
  return [
    group("endpoints", table("endpoints", t("endpoints"), withAction([{ title: t("endpoint") }, { title: t("state"), wide: true }, { title: t("sinceColumn") }, { title: t("inFlight"), number: true }, { title: t("limits") }]),
      d.endpoints.map((e, n) => withButton([[value(e.name), e.address && e.address !== e.name ? h("span", { class: "note block" }, value(e.address)) : null], circuit(e, e.paused), since(e.since, d.as_of), number(e.in_flight),
        [limits(e), noTime(e.rate_limited_until) ? null : [" ", badge("warn", t("rateLimited", { time: clock(e.rate_limited_until) }))]]], switchButton("endpoint", e.name, e.paused, n))), t("noEndpoints"))),
    group("models", table("models", t("models"), withAction([{ title: t("model") }, { title: t("state"), wide: true }, { title: t("sinceColumn") }, { title: t("endpoint") }]),
      d.models.map((m, n) => withButton([value(m.name), circuit(m, m.paused), since(m.since, d.as_of), m.endpoint ? value(m.endpoint) : "–"], switchButton("model", m.name, m.paused, n))), t("noModels")),
    actionButton("other-model", t("pauseModel"), pauseModel, { class: "small" })),
    group("proxies", table("proxies", t("proxies"), [{ title: t("proxy") }, { title: t("state"), wide: true }, { title: t("sinceColumn") }, { title: t("servedColumn"), number: true }, { title: t("endpoint") }],
      d.proxies.map((p) => [p.address ? value(p.address) : t("noProxy"), circuit(p), since(p.since, d.as_of), number(p.served), p.endpoint ? value(p.endpoint) : "–"]), t("noProxies"))),
    group("pictureStores", table("stores", t("pictureStores"), [{ title: t("host") }, { title: t("state"), wide: true }, { title: t("sinceColumn") }],
      d.picture_stores.map((p) => [value(p.host), circuit(p), since(p.since, d.as_of)]), t("noStores"))),
  ];
}

function checks(d) {
  return table("checks", t("checks"), [{ title: t("time") }, { title: t("check") }, { title: t("state") }, { title: t("took"), number: true }, { title: t("result"), wide: true }],
    d.health_checks.map((c) => [clock(c.at), value(named("check_", c.check) === c.check || !/^\w+$/.test(c.check) ? c.check.replace(/^check_/, "") : named("check_", c.check)), badge(c.ok ? "good" : "bad", c.ok ? t("ok") : t("notOK")),
      t("milliseconds", { n: number(c.ms) }), [value(c.result), c.action ? h("span", { class: "note" }, " ", value(c.action)) : null]]), t("noChecks"));
}

function failures(d) {
  if (d.failures.length === 0) return h("p", { class: "empty" }, t("noFailures"));
  return h("ul", { class: "failures" }, d.failures.map((f) => h("li", {},
    h("p", { class: "what" }, h("strong", {}, t("failureCount", { n: number(f.count) })), " ", searchLink(f.code), f.what ? [" ", value(both(f.what))] : null),
    f.hint || f.do ? h("p", { class: "hint" }, f.hint ? value(both(f.hint)) : null, " ", commandLine(f.do)) : null,
    f.examples.length > 0 ? h("details", { "data-key": "failure-" + f.code }, h("summary", { "data-key": "failure-open-" + f.code }, t("examples"), h("span", { class: "hidden" }, ": " + visible(f.code))),
      h("ul", {}, f.examples.map((e) => h("li", {}, taskLink(e.task_id), " ", h("span", { class: "note" }, dateTime(e.at)), " ", value(e.message))))) : null)));
}

function recent(d) {
  const s = currentSession();
  const pictures = s.pictures && s.signed_in;
  return [
    pictures ? null : h("p", { class: "note" }, s.pictures ? t("picturesSignIn") : t("picturesOff")),
    d.recent.length === 0 ? h("p", { class: "empty" }, t("noRecent")) : h("ul", { class: "recent" }, d.recent.map((r) => h("li", {},
      pictures && r.has_picture ? thumbnail(r.task_id) : null,
      h("div", {}, stateBadge(r.status), " ", r.error_code ? searchLink(r.error_code) : null, h("span", { class: "block" }, taskLink(r.task_id)),
        h("span", { class: "note block" }, searchLink(r.user_id, value(r.user_id)), r.model ? [" · ", value(r.model)] : null, r.seconds > 0 ? " · " + duration(r.seconds) : null, " · " + clock(r.at)))))),
  ];
}

/** thumbnail shows a task's picture; nothing if there is none. */
export function thumbnail(id) {
  const img = h("img", { src: "/api/thumbnails/" + encodeURIComponent(id), alt: t("pictureOf", { id: visible(id) }), loading: "lazy", decoding: "async", onerror: () => img.remove() });
  return img;
}

/** money shows an amount that is text with six decimals; those that say nothing are left out. */
const money = (c) => c.amount.replace(/(\.\d\d)(\d*?)0+$/, "$1$2") + " " + visible(c.currency);

function days(d) {
  return table("days", t("days"), [{ title: t("day") }, { title: t("completed"), number: true }, { title: t("failed"), number: true }, { title: t("charged"), number: true }, { title: t("refundedCredits"), number: true },
    { title: t("net"), number: true }, { title: t("apiCost"), number: true }],
  d.days.map((y) => [at(y.day), number(y.completed), number(y.failed), number(y.charged), number(y.refunded), number(y.charged - y.refunded), y.costs?.length > 0 ? y.costs.map((c) => h("span", { class: "block" }, money(c))) : "–"]), t("noDays"));
}

const facts = (pairs) => h("dl", { class: "facts" }, pairs.map(([name, content]) => h("div", {}, h("dt", {}, name), h("dd", {}, content))));

function links(d) {
  const b = d.bridge;
  const w = d.webhooks;
  const age = (seconds) => (seconds > 0 ? ` (${duration(seconds)})` : "");
  return [
    b ? [h("h3", {}, t("bridge")), facts([[t("state"), [b.active ? badge("good", t("bridge_active")) : badge("warn", t("bridge_inactive")), " ", dateTime(b.applied_at)]], [t("inbox"), number(b.inbox) + age(b.inbox_oldest_seconds)],
      [t("outbox"), [number(b.outbox) + age(b.outbox_oldest_seconds), b.outbox_failing > 0 ? [" ", badge("bad", t("failing", { n: number(b.outbox_failing) }))] : null]],
      [t("bridgeFailures"), b.failures > 0 ? badge("bad", number(b.failures)) : "0"], [t("lostUpdates"), b.lost_updates > 0 ? badge("bad", number(b.lost_updates)) : "0"]])] : null,
    w ? [h("h3", {}, t("webhooks")), facts([[t("waiting"), [number(w.waiting) + age(w.oldest_waiting_seconds), w.failing > 0 ? [" ", badge("warn", t("failing", { n: number(w.failing) }))] : null]],
      [t("held"), number(w.held)], [t("undelivered"), w.undelivered > 0 ? badge("bad", number(w.undelivered)) : "0"]]),
    h("ul", {}, (w.failing_receivers ?? []).map((r) => h("li", {}, value(r.host), " ", value(r.reason))))] : null,
  ];
}

// Each part is drawn again when the part of the document that it shows has changed.
const parts = [
  { id: "verdict", uses: ["well", "database", "problems", "paused", "tasks"], draw: verdict, plain: true },
  { id: "tasks", uses: ["tasks", "oldest_due_seconds", "processors"], draw: tiles },
  { id: "actions", uses: ["paused"], draw: toolbar, plain: true },
  { id: "charts" },
  { id: "failures", uses: ["failures"], draw: failures, half: true },
  { id: "recent", uses: ["recent"], draw: recent, half: true },
  { id: "processors", uses: ["processors"], draw: processors },
  { id: "routes", uses: ["endpoints", "models", "proxies", "picture_stores"], draw: routes, ages: true },
  { id: "checks", uses: ["health_checks"], draw: checks, half: true },
  { id: "days", uses: ["days"], draw: days, half: true },
  { id: "links", uses: ["bridge", "webhooks"], draw: links, plain: true, card: true },
];

/** isKnown reports whether a part shows what was read: while the database has never responded, zeros and empty lists say nothing. */
const isKnown = (p, d) => Boolean(d.as_of) || ["verdict", "actions"].includes(p.id) || ["processors", "routes", "checks"].includes(p.id) && p.uses.some((name) => d[name].length > 0);

/** Overview is the first page. */
export class Overview {
  constructor(element) {
    this.shown = {};
    this.heading = h("h1", {});
    this.bodies = {};
    update(element, h("div", { class: "overview" }, h("div", { id: "state", role: "status" }, this.heading), parts.map((p) => {
      const body = h("div", { class: "body" });
      this.bodies[p.id] = body;
      if (p.plain) return h("section", { id: p.id, class: p.card && "card", "aria-label": p.id === "verdict" ? t("whatToDo") : t(p.id === "links" ? "bridge" : p.id) }, body);
      return h("section", { id: p.id, class: "card" + (p.half ? " half" : ""), "aria-labelledby": "title-" + p.id }, h("h2", { id: "title-" + p.id }, t(p.id)), body);
    })));
    this.charts = new Charts(this.bodies.charts);
    this.charts.show();
  }

  destroy() {
    this.charts.destroy();
  }

  /** changed does nothing: the next document shows it. */
  changed() {}

  show(d) {
    const session = currentSession();
    const headline = verdictText(d);
    if (this.heading.textContent !== headline) this.heading.textContent = headline;
    this.heading.className = d.well ? "good" : d.problems.some((p) => p.severity === "error") || !d.database.ok || !d.problems.length ? "bad" : "warn";
    for (const p of parts) {
      if (!p.draw) continue;
      const depends = JSON.stringify([lang(), session, p.uses.map((name) => d[name]), p.ages ? d.as_of?.slice(0, 16) : "", isKnown(p, d)]);
      if (this.shown[p.id] === depends) continue;
      this.shown[p.id] = depends;
      update(this.bodies[p.id], isKnown(p, d) ? p.draw(d) : null);
      this.bodies[p.id].parentElement.hidden = !this.bodies[p.id].hasChildNodes();
    }
  }
}
