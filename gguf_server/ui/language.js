// Vietnamese and English: one table of texts each. An element remembers the key of its text, so that a change of
// language changes the page as it stands, a half written answer included.

import { setText } from "./dom.js";

export const LANGUAGES = ["vi", "en"];

const REMEMBERED = "gguf-server.language";
const tables = {};
const given = new WeakMap(); // element → values of its text
let language = "en";

export function preferredLanguage() {
  const remembered = localStorage.getItem(REMEMBERED);
  if (LANGUAGES.includes(remembered)) return remembered;
  return navigator.languages.some((tag) => tag.toLowerCase().startsWith("vi")) ? "vi" : "en";
}

export async function useLanguage(wanted) {
  if (!tables[wanted]) {
    const response = await fetch(new URL(`texts/${wanted}.json`, import.meta.url));
    if (!response.ok) throw new Error(`texts of ${wanted}: ${response.status}`);
    tables[wanted] = await response.json();
  }
  language = wanted;
  document.documentElement.lang = wanted;
  translate(document);
}

export function rememberLanguage(wanted) {
  localStorage.setItem(REMEMBERED, wanted);
}

// values: {name: text}, or {name: (t) => text} for what depends on the language.
export function t(key, values = {}) {
  const text = tables[language]?.[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => spelt(values[name]));
}

export const hasText = (key) => key in (tables[language] ?? {});

// Gives an element a text that follows the language.
export function say(element, key, values = {}) {
  element.dataset.text = key;
  given.set(element, values);
  setText(element, t(key, values));
  return element;
}

export function unsay(element) {
  delete element.dataset.text;
  setText(element, "");
}

export function label(element, key, values = {}) {
  element.dataset.label = key;
  given.set(element, values);
  element.setAttribute("aria-label", t(key, values));
  return element;
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function compact(value) {
  return new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 }).format(value);
}

export function clock(date) {
  return new Intl.DateTimeFormat(language, { timeStyle: "medium" }).format(date);
}

export function moment(date) {
  return new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "medium" }).format(date);
}

function spelt(value) {
  return String(typeof value === "function" ? value(t) : (value ?? ""));
}

function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) {
    setText(element, t(element.dataset.text, given.get(element)));
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label, given.get(element)));
  }
  for (const element of root.querySelectorAll("[data-placeholder]")) {
    element.setAttribute("placeholder", t(element.dataset.placeholder));
  }
}
