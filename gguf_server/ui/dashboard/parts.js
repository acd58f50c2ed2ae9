// The small parts of the dashboard. Each is built once and then updated, so that what is unfolded stays unfolded and
// the focus stays where it is.

import { h, svg } from "../dom.js";
import { say, unsay } from "../language.js";

// A name, a value, a note to it, and perhaps a bar of how much of a whole that is.
export class Figure {
  constructor(key, { bar = false } = {}) {
    this.name = say(h("dt"), key);
    this.value = h("dd", { class: "value" });
    this.noted = h("dd", { class: "aside", hidden: true });
    this.bar = bar ? h("span", { class: "bar-fill" }) : null;
    const frame = bar ? h("span", { class: "bar-frame", "aria-hidden": "true" }, this.bar) : null;
    this.element = h("div", { class: "figure" }, this.name, this.value, this.noted, frame);
  }

  show(key, values) {
    say(this.value, key, values);
  }

  // Nothing is noted without a key.
  note(key, values) {
    sayOrHide(this.noted, key, values);
  }

  fill(share, { alarmsAt = Infinity } = {}) {
    const full = Math.max(0, Math.min(1, share || 0));
    this.bar.style.width = `${100 * full}%`;
    this.bar.classList.toggle("alarming", full >= alarmsAt);
  }
}

// How something is, in a word and a shape; never by colour alone.
export class Pill {
  constructor() {
    this.element = h("span", { class: "pill" });
  }

  // kind: "ok", "busy", "bad" or "idle"
  show(kind, key) {
    this.element.className = `pill ${kind}`;
    say(this.element, key);
  }
}

// The last values of a figure; null where it was not known.
export class Sparkline {
  constructor(nValues = 60) {
    this.nValues = nValues;
    this.values = [];
    this.line = svg("polyline", { fill: "none" });
    const box = { viewBox: `0 0 ${nValues} 20`, preserveAspectRatio: "none", class: "sparkline", "aria-hidden": "true" };
    this.element = svg("svg", box, this.line);
  }

  add(value) {
    this.values = [...this.values, value ?? 0].slice(-this.nValues);
    this.element.classList.toggle("unknown", value == null || this.values.length < 2);
    const highest = Math.max(...this.values, 1);
    const first = this.nValues - this.values.length;
    const points = this.values.map((v, i) => `${first + i},${(19 - (18 * v) / highest).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
  }
}

// A line that is there only when it has something to say.
export function sayOrHide(element, key, values) {
  element.hidden = !key;
  if (key) say(element, key, values);
  else unsay(element);
}

// Brings the children of `parent` in line with `items`: made by `make`, found again by `keyOf`, updated by `.show`.
export function keep(parent, known, items, keyOf, make) {
  const wanted = new Set(items.map(keyOf));
  for (const [key, part] of known) {
    if (wanted.has(key)) continue;
    part.element.remove();
    known.delete(key);
  }
  items.forEach((item, i) => {
    const key = keyOf(item);
    if (!known.has(key)) known.set(key, make(item));
    const part = known.get(key);
    if (parent.children[i] !== part.element) parent.insertBefore(part.element, parent.children[i] ?? null);
    part.show(item);
  });
}
