// The pages of one task, of a search, and of the operations.

import { actionButton, askSignIn, cancel, grant, redrive } from "./actions.js";
import { ApiError, currentSession, get } from "./api.js";
import { at, code, h, table, update, value, visible } from "./dom.js";
import { dateTime, duration, number } from "./format.js";
import { both, has, t } from "./text.js";
import { badge, searchLink, stateBadge, taskLink, thumbnail } from "./overview.js";

/** View is a page that is requested by itself: path gives the address, and draw the content of what is answered. */
class View {
  constructor(element) {
    this.element = element;
    this.asked = 0;
    this.heading = h("h1", { tabindex: "-1" }, this.title());
    this.body = h("div", { class: "view" }, h("p", { class: "empty" }, t("loading")));
    update(element, this.heading, this.body);
    this.load();
  }

  destroy() {
    this.asked = -1;
  }

  async load() {
    if (this.asked < 0) return;
    const asked = ++this.asked;
    let content;
    try {
      this.answer = await get(this.path());
      content = this.draw(this.answer);
    } catch (err) {
      content = this.failed(err);
    }
    if (asked === this.asked) update(this.body, content);
  }

  failed(err) {
    const text = err instanceof ApiError ? visible(both(err.text)) : String(err);
    return [h("p", { class: "problem bad", role: "alert" }, text), h("p", {}, err.status === 401 ? h("button", { type: "button", class: "primary", onclick: askSignIn }, t("signIn")) :
      h("button", { type: "button", onclick: () => this.load() }, t("retry")))];
  }

  /** changed is called when the state of the queue has changed. */
  changed() {}
}

const fact = (name, content) => (content === null || content === undefined || content === "" ? null : h("div", {}, h("dt", {}, name), h("dd", {}, content)));

/** TaskPage shows everything that is known of a task. */
export class TaskPage extends View {
  constructor(element, id) {
    TaskPage.next = id;
    super(element);
  }

  title() {
    this.id = TaskPage.next;
    return [t("taskTitle", { id: "" }), code(this.id)];
  }

  path() {
    return "/api/tasks/" + encodeURIComponent(this.id);
  }

  failed(err) {
    return err.status === 404 ? h("p", { class: "problem warn", role: "alert" }, t("notFound", { id: visible(this.id) })) : super.failed(err);
  }

  changed() {
    if (["pending", "processing"].includes(this.answer?.status)) this.load();
  }

  draw(k) {
    const s = currentSession();
    const open = k.status === "pending" || k.status === "processing";
    const actions = [open ? actionButton("cancel", t("cancelTask"), () => cancel(k), { class: "danger" }) : null,
      k.status === "failed" ? actionButton("redrive", t("redrive"), () => redrive(k)) : null, actionButton("grant", t("grant"), () => grant(k.user_id))].filter(Boolean);
    return [
      actions.length > 0 ? h("div", { class: "buttons", role: "group", "aria-label": t("actions") }, actions) : null,
      k.set_aside ? h("p", { class: "problem bad" }, t("setAside", { reason: visible(k.set_aside) })) : null,
      k.missing_charge ? h("p", { class: "problem bad" }, t("missingCharge", { id: visible(k.task_id) })) : null,
      h("section", { class: "card", "aria-label": t("task") }, s.pictures && s.signed_in && k.status === "completed" ? thumbnail(k.task_id) : null, h("dl", { class: "facts" },
        fact(t("state"), [stateBadge(k.status), k.waits_for ? " " + t("waitsFor", { what: has("wait_" + k.waits_for) ? t("wait_" + k.waits_for) : visible(k.waits_for) }) : null]),
        fact(t("user"), searchLink(k.user_id)),
        fact(t("error"), k.error_code || k.error_message ? [k.error_code ? searchLink(k.error_code) : null, " ", value(k.error_message)] : null),
        fact(t("runNumber"), String(k.run)),
        fact(t("created"), dateTime(k.created_at)),
        fact(t("runAfter"), open && k.waits_for === "time" ? dateTime(k.run_after) : null),
        fact(t("closed"), k.completed_at ? dateTime(k.completed_at) : null),
        fact(t("position"), k.queue_position > 0 ? number(k.queue_position) : null),
        fact(t("expectedWait"), k.expected_wait_seconds > 0 ? duration(k.expected_wait_seconds) : null),
        fact(t("priority"), k.priority > 0 ? String(k.priority) : null),
        fact(t("progress"), k.status === "processing" ? [`${k.progress_percentage} % `, value(k.current_stage)] : null),
        fact(t("cost"), t("creditsLine", { cost: number(k.credits_cost), charged: number(k.credits_deducted), refunded: number(k.credits_refunded) })),
        fact(t("model"), k.model ? value(k.model) : null),
        fact(t("endpoint"), k.endpoint ? value(k.endpoint) : null),
        fact(t("options"), k.options && Object.keys(k.options).length > 0 ? code(JSON.stringify(k.options)) : null),
        fact(t("inputs"), k.input_count > 0 ? t("inputsLine", { n: number(k.input_count), stored: number(k.inputs.length) }) : null),
        fact(t("leasedBy"), k.leased_by ? value(k.leased_by) : null),
        fact(t("requests"), k.requests_sent > 0 ? t("requestsLine", { n: number(k.requests_sent), unknown: number(k.unknown_outcomes) }) : null),
        fact(t("requestID"), k.request_id ? code(k.request_id) : null),
        fact(t("bridgeState"), k.bridge_state ? value(k.bridge_state) : null),
        fact(t("picture"), k.image_url ? value(k.image_url) : null),
        fact(t("files"), k.files?.length > 0 ? h("ul", {}, k.files.map((f) => h("li", {}, value(f)))) : null)),
      k.pending_since ? h("p", {}, t("pendingSince", { time: dateTime(k.pending_since) })) : null,
      k.forgotten ? h("p", {}, t("forgotten")) : null),
      card("attempts", table("attempts", t("attempts"), [{ title: t("time") }, { title: t("outcome") }, { title: t("runNumber"), number: true }, { title: t("attempt"), number: true }, { title: t("took"), number: true }, { title: t("error") },
        { title: t("message"), wide: true }, { title: t("endpoint") }, { title: t("requestID") }],
      k.attempts.map((o) => [at(dateTime(o.at)), badge(outcomes[o.outcome] ?? "muted", visible(o.outcome)), String(o.run), String(o.attempt), duration(o.seconds), o.code ? code(o.code) : "", [value(o.message), o.note ? [" ", value(o.note)] : null],
        value(o.endpoint), o.request_id ? code(o.request_id) : ""]), t("none"))),
      card("results", table("results", t("results"), [{ title: t("time") }, { title: t("outcome") }, { title: t("runNumber"), number: true }, { title: t("took"), number: true }, { title: t("endpoint") }, { title: t("model") }, { title: t("apiCost"), number: true }, { title: t("usage"), wide: true }],
        k.results.map((r) => [at(dateTime(r.at)), badge(outcomes[r.outcome] ?? "muted", visible(r.outcome)), String(r.run), duration(r.seconds), value(r.endpoint), value(r.model), r.cost ? `${r.cost.amount} ${visible(r.cost.currency)}` : "–",
          r.usage ? code(JSON.stringify(r.usage)) : "–"]), t("none"))),
      card("ledger", table("ledger", t("ledger"), [{ title: t("time") }, { title: t("kind") }, { title: t("runNumber"), number: true }, { title: t("amount"), number: true }, { title: t("balance"), number: true }, { title: t("reason"), wide: true }],
        k.ledger.map((e) => [at(dateTime(e.created_at)), value(e.kind), e.run ? String(e.run) : "", (e.amount > 0 ? "+" : "") + number(e.amount), number(e.balance_after), value(e.reason)]), t("none"))),
    ];
  }
}

const outcomes = { completed: "good", failed: "bad", retry: "warn", paid: "warn" };

const card = (key, content) => h("section", { class: "card", id: "task-" + key, "aria-labelledby": "title-" + key }, h("h2", { id: "title-" + key }, t(key)), content);

/** SearchPage shows the tasks that a text finds. */
export class SearchPage extends View {
  constructor(element, text) {
    SearchPage.next = text;
    super(element);
  }

  title() {
    this.text = SearchPage.next;
    return t("searchTitle", { q: visible(this.text) });
  }

  path() {
    return "/api/tasks?limit=50&q=" + encodeURIComponent(this.text);
  }

  draw(found) {
    return [h("p", { class: "note", role: "status" }, found.tasks.length === 0 ? t("nothingFound") : found.more ? t("more", { n: number(found.tasks.length) }) : t("found", { n: number(found.tasks.length) }), " ", t("searchHint")),
      found.tasks.length === 0 ? null : table("found", t("search"), [{ title: t("task"), wide: true }, { title: t("state") }, { title: t("user") }, { title: t("error"), wide: true }, { title: t("created") }, { title: t("closed") }, { title: t("model") }, { title: t("cost"), number: true },
        { title: t("refundedCredits"), number: true }],
      found.tasks.map((k) => [taskLink(k.task_id), stateBadge(k.status), searchLink(k.user_id), k.error_code ? [searchLink(k.error_code), " ", value(k.error, { class: "note" })] : "", at(dateTime(k.created)), k.closed ? at(dateTime(k.closed)) : "",
        value(k.model), number(k.credits_cost), number(k.refunded)]), "")];
  }
}

/** OperationsPage shows what operators did, the latest first. */
export class OperationsPage extends View {
  title() {
    return t("operations");
  }

  path() {
    return "/api/operations";
  }

  async load() {
    if (!currentSession().signed_in) {
      update(this.body, h("p", {}, currentSession().token_set ? t("operationsSignIn") : t("actionsOff")), currentSession().token_set ? h("button", { type: "button", class: "primary", onclick: askSignIn }, t("signIn")) : null);
      return;
    }
    await super.load();
  }

  draw(found) {
    return table("operations", t("operations"), [{ title: t("time") }, { title: t("who") }, { title: t("what") }, { title: t("subject") }, { title: t("detail"), wide: true }, { title: t("result") }],
      found.operations.map((o) => [at(dateTime(o.at)), value(o.who), value(o.what), o.subject ? code(o.subject) : "", value(typeof o.detail === "string" ? o.detail : JSON.stringify(o.detail ?? "")), value(o.result)]), t("noOperations"));
  }
}
