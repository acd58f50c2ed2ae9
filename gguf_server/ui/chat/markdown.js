// Markdown on the page. A text that grows keeps the elements of the blocks that did not change, so that a reader's
// selection in them stays and a long answer costs no more at its end than at its beginning.

import { copy } from "../clipboard.js";
import { h } from "../dom.js";
import { say } from "../language.js";
import { blocksOf } from "./markdown_blocks.js";
import { inline } from "./markdown_inline.js";

export class MarkdownView {
  constructor(attributes = {}) {
    this.element = h("div", { ...attributes, class: "markdown" });
    this.sources = [];
  }

  show(text) {
    const blocks = blocksOf(text);
    const nSame = blocks.findIndex((block, i) => block.source !== this.sources[i]);
    const from = nSame < 0 ? blocks.length : nSame;
    while (this.element.childNodes.length > from) this.element.lastChild.remove();
    this.element.append(...blocks.slice(from).map(element));
    this.sources = blocks.map((block) => block.source);
  }
}

const BUILDERS = {
  heading: ({ level, text }) => h(`h${Math.min(6, level + 2)}`, {}, ...inline(text)),
  paragraph: ({ text }) => h("p", {}, ...inline(text)),
  rule: () => h("hr"),
  quote: ({ blocks }) => h("blockquote", {}, ...blocks.map(element)),
  list: ({ isOrdered, start, items }) =>
    h(isOrdered ? "ol" : "ul", isOrdered && start !== 1 ? { start } : {}, ...items.map(item)),
  code: ({ language, text }) => codeBlock(language, text),
  table: (block) => table(block),
};

function element(block) {
  return BUILDERS[block.kind](block);
}

// A first paragraph stands in the item itself: lists are mostly short lines.
function item([first, ...rest]) {
  if (!first) return h("li");
  const head = first.kind === "paragraph" ? inline(first.text) : [element(first)];
  return h("li", {}, ...head, ...rest.map(element));
}

function codeBlock(language, text) {
  const button = say(h("button", { type: "button", class: "small" }), "answer.copy");
  button.addEventListener("click", async () => say(button, (await copy(text)) ? "answer.copied" : "answer.not_copied"));
  const head = h("div", { class: "code-head" }, h("span", {}, language), button);
  return h("div", { class: "code-block" }, head, h("pre", { tabindex: "0" }, h("code", {}, text)));
}

function table({ head, alignments, rows }) {
  const row = (tag, cells) =>
    h("tr", {}, ...head.map((_, i) => h(tag, { class: alignments[i] ?? "left" }, ...inline(cells[i] ?? ""))));
  const body = h("tbody", {}, ...rows.map((cells) => row("td", cells)));
  return h("div", { class: "table-frame", tabindex: "0" }, h("table", {}, h("thead", {}, row("th", head)), body));
}
