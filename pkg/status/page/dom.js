// Elements, and text that is safe to show. Whatever the database holds becomes a text node, never HTML.

/**
 * h creates an element: h("p", {class: "note"}, "text", child, ...). A property that begins with "on" is an event handler; null, undefined and false
 * are left out. Children are nodes, texts, numbers, or arrays of them.
 */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

// Controls, what is not drawn or changes the order of text (but for the form of emoji), spaces of special widths, and spaces at the ends.
const unseen = /(?<!\p{Extended_Pictographic})[\ufe0e\ufe0f]|(?![\t\n\ufe0e\ufe0f])[\p{Cc}\p{Default_Ignorable_Code_Point}\u2028\u2029\u00a0\u2000-\u200a\u202f\u205f\u2800]|^ +| +$/gu;

/** visible replaces characters that are not seen by their code points, so that two ids that look alike are alike. */
export function visible(text) {
  return String(text ?? "").replace(unseen, (found) => Array.from(found, (c) => "[U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "]").join(""));
}

/** value shows a text from outside; its direction does not change that of the text around it. */
export function value(text, properties) {
  return h("bdi", properties, visible(text));
}

/** at shows a time that is already formatted, on one line. */
export function at(text) {
  return h("time", {}, text);
}

/** code shows an id, a name or a command. */
export function code(text, properties) {
  const shown = visible(text);
  return h("code", { dir: "auto", class: shown.length <= 40 && "short", ...properties }, shown); // a table breaks long ones only
}

/**
 * update replaces the content of an element. The focus stays on the element with the same data-key, and so do details that are open and
 * how far tables are scrolled.
 */
export function update(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Set([...element.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key));
  const scrolled = new Map([...element.querySelectorAll("[data-scroll]")].map((e) => [e.dataset.scroll, e.scrollLeft]));
  element.replaceChildren();
  append(element, children);
  for (const d of element.querySelectorAll("details[data-key]")) d.open = open.has(d.dataset.key);
  for (const e of element.querySelectorAll("[data-scroll]")) e.scrollLeft = scrolled.get(e.dataset.scroll) ?? 0;
  if (focused !== undefined) byKey(element, focused)?.focus({ preventScroll: true });
}

function byKey(element, key) {
  return [...element.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key);
}

/**
 * table creates a table: columns are {title, number, wide}, rows arrays of cells, the first of which is the row's header. It scrolls by itself where it is
 * wider than the page, and can be scrolled by the keyboard.
 */
export function table(key, caption, columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": caption, "data-scroll": key, "data-key": "table-" + key },
    h("table", {}, h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.number && "number" }, c.title)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) =>
        h(i === 0 ? "th" : "td", { scope: i === 0 && "row", class: columns[i].number ? "number" : columns[i].wide && "wide" }, cell)))))));
}
