// What can be done from the page. Each action asks first and says what will happen, and then what has happened.

import { act, ApiError, currentSession, signIn, signOut } from "./api.js";
import { code, h, visible } from "./dom.js";
import { both, t } from "./text.js";

let changed = () => {};
let loaded = () => {};

/** onChange sets what to call when the session (loaded) or the state (changed) may be another one. */
export function onChange(sessionLoaded, stateChanged) {
  loaded = sessionLoaded;
  changed = stateChanged;
}

/** withNodes returns a text in which {names} are replaced by nodes. */
function withNodes(text, nodes) {
  return text.split(/\{(\w+)\}/).map((part, i) => (i % 2 ? nodes[part] : part));
}

/**
 * ask opens a dialog: title, paragraphs, fields {name, label, type, required, ...attributes}, and a button that runs run(values). A text that run returns is
 * shown; without one the dialog closes.
 */
function ask({ title, paragraphs, fields = [], button, danger, run }) {
  const opener = document.activeElement;
  const key = opener?.dataset?.key;
  const inputs = fields.map(({ name, label, ...attributes }) => {
    const id = "field-" + name;
    return { name, node: h("p", { class: "field" }, h("label", { for: id }, label), h("input", { id, name, autocomplete: "off", ...attributes })) };
  });
  const result = h("div", { class: "result", role: "status" });
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, t("cancel"));
  const confirm = h("button", { type: "submit", class: danger ? "danger" : "primary" }, button);
  const form = h("form", { method: "dialog", novalidate: false }, paragraphs.map((p) => h("p", {}, p)), inputs.map((i) => i.node), result,
    h("div", { class: "buttons" }, cancel, confirm));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, h("h2", { id: "dialog-title" }, title), form);
  let working = false;

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (working) return;
    working = true;
    confirm.disabled = cancel.disabled = true;
    result.className = "result";
    result.textContent = t("working");
    const values = Object.fromEntries(inputs.map((i) => [i.name, i.node.querySelector("input").value]));
    let message;
    try {
      message = await run(values);
    } catch (err) {
      result.className = "result bad";
      result.textContent = t("refused") + ": " + (err instanceof ApiError ? visible(both(err.text)) : String(err));
      confirm.disabled = cancel.disabled = false;
      confirm.focus();
      if (err instanceof ApiError && err.status === 401) loaded();
      return;
    } finally {
      working = false;
    }
    if (!message) {
      dialog.close();
      return;
    }
    result.className = "result good";
    result.textContent = t("done") + ": " + visible(message);
    for (const i of inputs) i.node.querySelector("input").readOnly = true;
    cancel.disabled = false;
    cancel.textContent = t("close");
    confirm.remove();
    cancel.focus();
  });
  dialog.addEventListener("cancel", (event) => working && event.preventDefault());
  dialog.addEventListener("close", () => {
    dialog.remove();
    const back = opener?.isConnected ? opener : [...document.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key);
    (back ?? document.getElementById("main")).focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  (dialog.querySelector("input:not([hidden])") ?? cancel).focus();
}

async function perform(name, body) {
  const answer = await act(name, body);
  queueMicrotask(changed); // whatever it meets, the action is done
  return both(answer.message) || t("done");
}

export function askSignIn() {
  // Programs that keep passwords want a name to keep the token under.
  const name = h("input", { type: "text", autocomplete: "username", value: "imagetasks", hidden: true });
  ask({ title: t("signIn"), paragraphs: [[t("signInText"), name]], button: t("signIn"),
    fields: [{ name: "token", label: t("token"), type: "password", required: true, autocomplete: "current-password" }],
    run: async ({ token }) => {
      await signIn(token);
      loaded();
    } });
}

export async function doSignOut() {
  try {
    await signOut();
  } finally {
    loaded();
  }
}

export function redrive(task) {
  ask({ title: t("redriveTitle"), paragraphs: [withNodes(t("redriveText"), { id: code(task.task_id), cost: String(task.credits_cost) })], button: t("redrive"),
    run: () => perform("redrive", { task_id: task.task_id, run: task.run }) }); // with the run, a repeat does not charge for another one
}

export function cancel(task) {
  ask({ title: t("cancelTitle"), paragraphs: [withNodes(t("cancelText"), { id: code(task.task_id) })], button: t("cancelTask"), danger: true,
    run: () => perform("cancel", { task_id: task.task_id }) });
}

export function fixStuck() {
  ask({ title: t("fixStuckTitle"), paragraphs: [t("fixStuckText")], button: t("fixStuck"), danger: true, run: () => perform("fix-stuck", {}) });
}

/** scopeText names what is paused: the whole queue, an endpoint or a model. */
export function scopeText(scope, name) {
  return scope === "queue" ? t("scope_queue") : `${t("scope_" + scope)} ${visible(name)}`;
}

export function pause(scope, name) {
  ask({ title: t("pauseTitle", { what: scopeText(scope, name) }), paragraphs: [t("pauseText_" + scope)], button: t("pause"), danger: true,
    fields: [{ name: "reason", label: t("reasonLabel"), maxlength: 200 }],
    run: ({ reason }) => perform("pause", { scope, name, reason }) });
}

/** pauseModel pauses a model that no list has. */
export function pauseModel() {
  ask({ title: t("pauseModelTitle"), paragraphs: [t("pauseText_model")], button: t("pause"), danger: true,
    fields: [{ name: "name", label: t("modelLabel"), required: true, maxlength: 200 }, { name: "reason", label: t("reasonLabel"), maxlength: 200 }],
    run: ({ name, reason }) => perform("pause", { scope: "model", name, reason }) });
}

export function resume(scope, name) {
  ask({ title: t("resumeTitle", { what: scopeText(scope, name) }), paragraphs: [t("resumeText")], button: t("resume"), run: () => perform("resume", { scope, name }) });
}

export function grant(user) {
  // The same key however often the form is sent: credits are granted once.
  const key = "page-" + Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  ask({ title: t("grantTitle"), paragraphs: [t("grantText")], button: t("grant"),
    fields: [{ name: "user", label: t("userLabel"), required: true, maxlength: 200, value: user ?? "" },
      { name: "credits", label: t("creditsLabel"), type: "number", min: 1, step: 1, required: true, inputmode: "numeric" },
      { name: "reason", label: t("reasonRequired"), required: true, maxlength: 200 }],
    run: (v) => perform("grant", { user_id: v.user, credits: Number(v.credits), reason: v.reason, idempotency_key: key }) });
}

/** actionButton is a button for an action, if this browser may do actions. key makes it findable when the page is drawn again. */
export function actionButton(key, label, run, properties) {
  if (!currentSession().signed_in) return null;
  return h("button", { type: "button", "data-key": "do-" + key, onclick: run, ...properties }, label);
}
