// The charts of the last hours, each with its text and its table for those who do not see it.

import { h, update, table } from "./dom.js";
import { t } from "./text.js";
import { dateTime, duration, minute, number, zoneName } from "./format.js";

// Each line has a color of the style sheet and a form of its own, so that color alone tells nothing.
const charts = [
  { key: "flow", sum: true, lines: [["arrived", "--line-1"], ["completed", "--line-2", [6, 3]], ["failed", "--line-3", [2, 3]]] },
  { key: "duration", digits: 1, lines: [["p50", "--line-1"], ["p95", "--line-3", [6, 3]]] },
  { key: "depth", lines: [["depth", "--line-1"], ["processing", "--line-2", [6, 3]]] },
  { key: "oldest", digits: 0, lines: [["oldest", "--line-1"]] },
  { key: "refunds", sum: true, lines: [["refunded", "--line-3"]] },
];

const height = 170;
const bin = 600; // seconds that one value of a sum stands for: single minutes are noise
const day = 24 * 3600;
const columns = ["arrived", "completed", "failed", "refunded", "p50", "p95", "depth", "processing", "oldest"];

/** Charts shows the series in an element. */
export class Charts {
  constructor(element) {
    this.element = element;
    this.plots = [];
    this.series = null;
    this.resize = new ResizeObserver(() => this.fit());
  }

  /** set replaces the series. */
  set(series) {
    this.series = series;
    this.show();
  }

  /** add adds the last points, which may replace earlier ones of the same minute. */
  add(points) {
    if (!this.series || points.step_seconds !== this.series.step_seconds || points.minutes.length === 0) return;
    const s = this.series;
    const keep = s.minutes.findIndex((m) => m >= points.minutes[0]);
    const end = keep < 0 ? s.minutes.length : keep;
    const begin = Math.max(0, s.minutes.slice(0, end).findIndex((m) => m > points.minutes.at(-1) - day));
    for (const name of ["minutes", ...columns]) {
      if (Array.isArray(s[name])) s[name] = s[name].slice(begin, end).concat(points[name] ?? points.minutes.map(() => null));
    }
    this.show();
  }

  destroy() {
    this.resize.disconnect();
    for (const p of this.plots) p.plot.destroy();
    this.plots = [];
  }

  /** show draws everything again: the data, the language or the theme has changed. */
  show() {
    const s = this.series;
    const shape = JSON.stringify([document.documentElement.lang, document.documentElement.dataset.theme, matchMedia("(prefers-color-scheme: dark)").matches, zoneName()]);
    if (!s || s.minutes.length === 0) {
      this.destroy();
      update(this.element, h("p", { class: "empty" }, s ? t("noSeries") : t("loading")));
      return;
    }
    if (shape !== this.shape || this.plots.length === 0) {
      this.destroy();
      this.shape = shape;
      update(this.element, charts.map((c) => this.figure(c)));
      for (const p of this.plots) this.draw(p);
      this.resize.observe(this.element);
    } else {
      for (const p of this.plots) p.plot.setData(this.data(p.chart));
    }
    for (const p of this.plots) this.describe(p);
  }

  figure(chart) {
    const box = h("div", { class: "plot", role: "img" });
    const summary = h("p", { class: "summary" });
    const rows = h("div");
    const details = h("details", { "data-key": "chart-" + chart.key, ontoggle: () => this.describe(part) }, h("summary", { "data-key": "chart-open-" + chart.key },
      t("asTable"), h("span", { class: "hidden" }, ": " + this.title(chart))), rows);
    const part = { chart, box, summary, rows, details };
    this.plots.push(part);
    return h("figure", { id: "chart-" + chart.key }, h("figcaption", {}, h("h3", {}, this.title(chart)), summary), box, details);
  }

  data(chart) {
    const values = chart.lines.map(([name]) => this.series[name] ?? this.series.minutes.map(() => null));
    return chart.sum ? sums(this.series.minutes, values, this.bin) : [this.series.minutes, ...values];
  }

  /** bin is how many steps a value of a sum stands for. */
  get bin() {
    return Math.max(1, Math.round(bin / (this.series.step_seconds || 60)));
  }

  /** title names a chart. */
  title(chart) {
    return t("chart_" + chart.key, { step: duration(this.bin * (this.series.step_seconds || 60)) });
  }

  draw(part) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: color("--muted"), grid: { stroke: color("--grid"), width: 1 }, ticks: { stroke: color("--grid"), width: 1 }, font: "11px system-ui, sans-serif" };
    const shown = (v) => (v === null || v === undefined ? "–" : number(v, part.chart.digits ?? 0));
    part.plot = new uPlot({
      width: this.width(part), height,
      scales: { x: { time: true }, y: { range: (u, min, max) => [0, max > 0 ? max * 1.1 : 1] } },
      cursor: { y: false, points: { size: 6 } },
      axes: [
        { ...axis, values: (u, at) => at.map((s) => minute(s * 1000)), space: 60 },
        { ...axis, size: 46, values: (u, at) => at.map((v) => (Number.isInteger(v) || part.chart.digits ? number(v, 1) : "")) },
      ],
      series: [
        { label: t("time"), value: (u, v) => (v === null ? "–" : dateTime(v * 1000)) },
        ...part.chart.lines.map(([name, line, dash]) => ({ label: t(name), stroke: color(line), dash, width: 1.5, points: { show: this.series.minutes.length < 30 }, value: (u, v) => shown(v) })),
      ],
    }, this.data(part.chart), part.box);
  }

  width(part) {
    return Math.max(200, Math.floor(part.box.clientWidth));
  }

  fit() {
    for (const p of this.plots) {
      const width = this.width(p);
      if (p.plot && p.plot.width !== width) p.plot.setSize({ width, height });
    }
  }

  /** describe says in words what a chart shows, and fills its table while that is open. */
  describe(part) {
    const { chart } = part;
    const texts = chart.lines.map(([name]) => {
      const values = (this.series[name] ?? []).filter((v) => v !== null);
      if (values.length === 0) return t("noValues", { name: t(name) });
      const digits = chart.digits ?? 0;
      return chart.sum ? t("sum", { name: t(name), n: number(values.reduce((a, b) => a + b, 0)) }) :
        t("range", { name: t(name), now: number(values.at(-1), digits), max: number(values.reduce((a, b) => Math.max(a, b)), digits) });
    });
    part.summary.textContent = texts.join(" · ");
    part.box.setAttribute("aria-label", this.title(chart) + ". " + texts.join(". "));
    if (!part.details.open) {
      part.rows.replaceChildren();
      return;
    }
    update(part.rows, table("chart-" + chart.key, this.title(chart), [{ title: t("time") }, ...chart.lines.map(([name]) => ({ title: t(name), number: true }))],
      this.hours(chart), t("noSeries")));
  }

  /** hours returns the rows of a table: one for each hour, the latest first, of sums or of the largest values. */
  hours(chart) {
    const rows = new Map();
    const s = this.series;
    for (let i = s.minutes.length - 1; i >= 0; i--) {
      const hour = s.minutes[i] - (s.minutes[i] % 3600);
      if (!rows.has(hour)) rows.set(hour, chart.lines.map(() => null));
      chart.lines.forEach(([name], n) => {
        const v = s[name]?.[i] ?? null;
        const row = rows.get(hour);
        if (v !== null) row[n] = chart.sum ? (row[n] ?? 0) + v : Math.max(row[n] ?? v, v);
      });
    }
    return [...rows].map(([hour, values]) => [dateTime(hour * 1000).slice(0, 16), ...values.map((v) => (v === null ? "–" : number(v, chart.digits ?? 0)))]);
  }
}

/** sums adds up the values of n steps each. The last of them ends with the last step, so that none is of a shorter time; one
 * of which most is not known is not known. */
function sums(minutes, columns, n) {
  const starts = [];
  for (let end = minutes.length; end >= n; end -= n) starts.unshift(end - n);
  const add = (values, from) => {
    const known = values.slice(from, from + n).filter((v) => v !== null);
    return 2 * known.length > n ? known.reduce((a, b) => a + b, 0) : null;
  };
  return [starts.map((i) => minutes[i]), ...columns.map((values) => starts.map((i) => add(values, i)))];
}
