// Numbers and times in the reader's language.

import { lang } from "./text.js";

let zone = { name: "UTC", offset_minutes: 0 };
let dates = {};

/** setZone sets the server's time zone, and returns whether it was another one. */
export function setZone(to) {
  if (!to || (to.name === zone.name && to.offset_minutes === zone.offset_minutes)) return false;
  zone = to;
  dates = {};
  return true;
}

// A browser may not know the server's name of its zone. Then the offset of today stands for all times.
function formatter(kind) {
  const id = kind + lang();
  if (dates[id]) return dates[id];
  const options = { hourCycle: "h23", hour: "2-digit", minute: "2-digit" };
  if (kind !== "minute") options.second = "2-digit";
  if (kind === "full") Object.assign(options, { year: "numeric", month: "2-digit", day: "2-digit" });
  // An abbreviation such as CST means several zones.
  const known = zone.name.includes("/");
  const make = (timeZone) => new Intl.DateTimeFormat("sv-SE", { ...options, timeZone });
  dates[id] = { format: make("UTC").format, shift: zone.offset_minutes * 60_000 };
  if (known) {
    try {
      dates[id] = { format: make(zone.name).format, shift: 0 };
    } catch {
      // The offset stands for it.
    }
  }
  return dates[id];
}

function format(kind, time) {
  const ms = typeof time === "number" ? time : Date.parse(time);
  if (!Number.isFinite(ms)) return "";
  const f = formatter(kind);
  return f.format(new Date(ms + f.shift));
}

export const dateTime = (time) => format("full", time);
export const clock = (time) => format("clock", time);
export const minute = (time) => format("minute", time);

export function zoneName() {
  const m = Math.abs(zone.offset_minutes);
  const offset = "UTC" + (zone.offset_minutes < 0 ? "−" : "+") + Math.floor(m / 60) + (m % 60 ? ":" + String(m % 60).padStart(2, "0") : "");
  return zone.name && zone.name !== "Local" && zone.name !== offset ? `${zone.name} (${offset})` : offset;
}

export const number = (n, digits = 0) => new Intl.NumberFormat(lang() === "zh" ? "zh-CN" : "en", { maximumFractionDigits: digits }).format(n ?? 0);

/** duration returns seconds as a text of one or two units. */
export function duration(seconds) {
  const units = lang() === "zh" ? ["天", "小时", "分钟", "秒"] : ["d", "h", "min", "s"];
  const s = Math.max(0, seconds);
  const join = (a, u, b, v) => `${a} ${units[u]}` + (b ? ` ${b} ${units[v]}` : "");
  if (s < 10) return `${number(s, 1)} ${units[3]}`;
  if (s < 60) return `${Math.round(s)} ${units[3]}`;
  const whole = Math.round(s);
  if (whole < 3600) return join(Math.floor(whole / 60), 2, whole < 600 ? whole % 60 : 0, 3);
  if (whole < 86_400) return join(Math.floor(whole / 3600), 1, Math.floor((whole % 3600) / 60), 2);
  return join(Math.floor(whole / 86_400), 0, Math.floor((whole % 86_400) / 3600), 1);
}
