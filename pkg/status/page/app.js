// The frame of the page: header, connection, the page of the address, language and theme.

import { askSignIn, doSignOut, onChange } from "./actions.js";
import { currentSession, get, loadSession } from "./api.js";
import { h, update, visible } from "./dom.js";
import { clock, dateTime, duration, setZone, zoneName } from "./format.js";
import { Live } from "./live.js";
import { Overview, verdictText } from "./overview.js";
import { OperationsPage, SearchPage, TaskPage } from "./tasks.js";
import { both, lang, setLanguage, store, stored, t } from "./text.js";

const main = document.getElementById("main");
const header = document.getElementById("header");
const connection = document.getElementById("connection");
const footer = document.getElementById("footer");

let state = null; // the last document of /api/overview
let heard = 0; // when it arrived
let failure = null; // why there is no connection
let series = null; // promise of the figures
let view = null;

/** route reads the address: #/tasks/ID, #/search/TEXT, #/operations, or the first page. */
function route() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  let text = rest.join("/");
  try {
    text = decodeURIComponent(text);
  } catch {
    // It stays as it is.
  }
  return { page, text };
}

function open(focus) {
  const { page, text } = route();
  view?.destroy();
  if (page === "tasks" && text) view = new TaskPage(main, text);
  else if (page === "search" && text) view = new SearchPage(main, text);
  else if (page === "operations") view = new OperationsPage(main);
  else {
    view = new Overview(main);
    if (state) view.show(state);
    loadSeries();
  }
  drawHeader();
  drawConnection();
  if (focus) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

async function loadSeries() {
  const request = (series = get("/api/series?hours=24"));
  let answer;
  try {
    answer = await request;
  } catch {
    if (request === series) series = null; // the connection says why, and the next document brings it again
    return;
  }
  if (request === series && view instanceof Overview) view.charts.set(answer);
}

const lists = ["problems", "paused", "processors", "endpoints", "models", "proxies", "picture_stores", "health_checks", "failures", "recent", "days"];

function received(d) {
  for (const name of lists) d[name] ??= [];
  const moved = setZone(d.time_zone);
  const first = state === null;
  state = d;
  heard = Date.now();
  failure = null;
  if (view instanceof Overview) {
    view.show(d);
    if (series === null) loadSeries();
    else if (moved) redraw();
  } else view.changed();
  if (first || moved) drawFooter();
  drawConnection();
}

function lost(err) {
  failure = err;
  series = null;
  drawConnection();
}

/** drawConnection says how old the state is, and what is wrong with the connection. */
function drawConnection() {
  const age = (Date.now() - heard) / 1000;
  const asOf = document.getElementById("as-of");
  if (asOf) {
    const old = state && (failure || age > 20) ? ` (${duration(age)})` : "";
    const live = !failure && state?.database.ok;
    asOf.className = live ? "good" : state || failure ? "bad" : "muted";
    asOf.textContent = state ? `${live ? t("live") + " · " : ""}${t("asOf")} ${state.as_of ? clock(state.as_of) : "–"}${old}` : t("connecting");
  }
  let banner = "";
  if (failure?.status === 401) banner = t("mustSignIn");
  else if (failure && state) banner = t("lost", { time: state.as_of ? dateTime(state.as_of) : "–", age: duration(Math.round(age / 10) * 10) });
  else if (failure) banner = t("lostNever", { reason: visible(both(failure.text)) });
  if (connection.dataset.text !== banner) {
    connection.dataset.text = banner;
    update(connection, banner ? h("p", { class: "banner" }, banner, failure?.status === 401 ? [" ", h("button", { type: "button", "data-key": "sign-in-banner", onclick: askSignIn }, t("signIn"))] : null) : null);
  }
  document.body.classList.toggle("stale", Boolean(failure && state));
  document.title = (failure ? "… " : state && !state.well ? "! " : "") + (state ? verdictText(state) + " – " : "") + t("title");
  document.getElementById("icon").href = "/assets/icon-" + (failure || !state ? "unknown" : state.well ? "good" : "bad") + ".svg";
}

const themes = ["auto", "light", "dark"];
const theme = () => (themes.includes(stored("theme")) ? stored("theme") : "auto");

function setTheme(to) {
  store("theme", to);
  if (to === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = to;
}

function redraw() {
  if (view instanceof Overview) view.charts.show();
}

function drawHeader() {
  const s = currentSession();
  const { page, text } = route();
  const link = (to, name, here) => h("a", { href: "#/" + to, "aria-current": here && "page", "data-key": "nav-" + name }, t(name));
  const search = h("form", { role: "search", class: "search", onsubmit: (event) => {
    event.preventDefault();
    const q = search.querySelector("input").value.trim();
    if (q) location.hash = "#/search/" + encodeURIComponent(q);
  } }, h("label", { class: "hidden", for: "search" }, t("searchLabel")), h("input", { id: "search", type: "search", placeholder: t("searchLabel"), maxlength: 200, value: page === "search" ? text : "", "data-key": "search" }),
  h("button", { type: "submit", "data-key": "search-button" }, t("search")));
  update(header,
    h("div", { class: "brand" }, h("span", { class: "name" }, "imagetasks"), h("span", { id: "as-of" })),
    h("nav", { "aria-label": t("nav") }, link("", "overview", !["tasks", "search", "operations"].includes(page)), link("operations", "operations", page === "operations")),
    search,
    h("div", { class: "switches" },
      h("button", { type: "button", class: "plain", lang: lang() === "zh" ? "en" : "zh-CN", id: "language", "data-key": "language", "aria-label": t("languageLabel"), onclick: () => {
        setLanguage(lang() === "zh" ? "en" : "zh");
        drawAll();
      } }, t("language")),
      h("label", {}, h("span", { class: "hidden" }, t("theme")), h("select", { id: "theme", "data-key": "theme", onchange: (event) => {
        setTheme(event.target.value);
        redraw();
      } }, themes.map((name) => h("option", { value: name, selected: name === theme() }, t("theme_" + name))))),
      s.token_set ? h("button", { type: "button", id: "session", "data-key": "session", onclick: s.signed_in ? doSignOut : askSignIn }, s.signed_in ? t("signOut") : t("signIn")) : null));
}

function drawFooter() {
  const d = state;
  update(footer, d ? [h("p", {}, t("zone", { zone: visible(zoneName()) })), h("p", {}, t("served", { program: d.served_by, version: visible(d.version), host: visible(d.host) }))] : null);
}

function drawAll() {
  document.getElementById("skip").textContent = t("skip");
  connection.dataset.text = "-";
  open(false);
  drawFooter();
}

setTheme(theme());
onChange(
  async () => {
    await loadSession().catch(() => {}); // what it may do is refused by the server
    drawAll();
    live.start();
  },
  () => {
    view.changed();
    if (view instanceof TaskPage) view.load();
    get("/api/overview").then(received, () => {});
  });
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => open(true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
setInterval(drawConnection, 1000);

const live = new Live({ overview: received, series: (points) => view instanceof Overview && view.charts.add(points), lost });
await loadSession().catch(() => {}); // the connection says why nothing responds
drawAll();
live.start();
