// One question and its answer on the page.

import { copy } from "../clipboard.js";
import { h } from "../dom.js";
import { say, t } from "../language.js";
import { problemBox } from "../problem.js";
import { count, perSecond, seconds } from "../quantities.js";
import { MarkdownView } from "./markdown.js";

export class ExchangeView {
  // actions: {retry, edit, showCode}, each called with the exchange.
  constructor(exchange, actions) {
    this.exchange = exchange;
    this.actions = actions;
    this.thought = h("div", { class: "thought-text" });
    this.thinking = h("details", { class: "thought", hidden: true }, say(h("summary"), "answer.thinking"), this.thought);
    this.said = new MarkdownView();
    this.waiting = h("p", { class: "waiting", "aria-hidden": "true" }, h("span"), h("span"), h("span"));
    this.foot = h("div", { class: "foot" });
    this.element = h("li", { class: "exchange" }, this.#question(), this.#answer());
  }

  #question() {
    const { text, images } = this.exchange.question;
    const pictures = images.map((src) => h("img", { src, alt: t("answer.picture") }));
    return h(
      "article",
      { class: "question" },
      say(h("h2", { class: "unseen" }), "answer.you"),
      images.length ? h("div", { class: "pictures" }, ...pictures) : null,
      text ? h("p", {}, text) : null,
    );
  }

  #answer() {
    const heading = h("h2", { class: "who" }, this.exchange.title);
    return h("article", { class: "answer" }, heading, this.thinking, this.said.element, this.waiting, this.foot);
  }

  update() {
    const { thought, text } = this.exchange.answer;
    this.thinking.hidden = thought === "";
    if (this.thought.textContent !== thought) this.thought.textContent = thought;
    if (text) say(this.thinking.firstChild, "answer.thought");
    this.said.show(text);
  }

  // error: ApiError, or null where it came to its end or was stopped.
  finish(error) {
    this.update();
    this.waiting.remove();
    const { answer } = this.exchange;
    if (error) this.foot.append(problemBox(error, ...this.#waysOn()));
    else if (this.exchange.wasStopped) this.foot.append(say(h("p", { class: "note" }), "answer.stopped"));
    else if (answer.finish === "length") this.foot.append(say(h("p", { class: "note" }), "answer.cut_short"));
    this.foot.append(h("div", { class: "foot-row" }, this.#facts(), this.#buttons(error)));
  }

  #waysOn() {
    return [this.#button("answer.retry", "retry"), this.#button("answer.edit", "edit")];
  }

  #buttons(error) {
    const row = h("div", { class: "actions" });
    if (this.exchange.answer.text) row.append(this.#copyButton());
    if (!error) row.append(this.#button("answer.retry", "retry"));
    row.append(this.#button("answer.code", "showCode"));
    return row;
  }

  #button(key, action) {
    const button = h("button", { type: "button", class: "small", onclick: () => this.actions[action](this.exchange) });
    return say(button, key);
  }

  #copyButton() {
    const button = say(h("button", { type: "button", class: "small" }), "answer.copy");
    button.addEventListener("click", async () => {
      say(button, (await copy(this.exchange.answer.text)) ? "answer.copied" : "answer.not_copied");
    });
    return button;
  }

  #facts() {
    const { engine, nFailovers, nDropped, usage, tokensPerS, firstTokenS } = this.exchange.answer;
    const fact = (key, values) => say(h("li"), key, values);
    return h(
      "ul",
      { class: "facts" },
      engine ? fact("answer.engine", { engine }) : null,
      nFailovers ? fact("answer.failovers", { n: count(nFailovers) }) : null,
      nDropped ? fact("answer.dropped", { n: count(nDropped) }) : null,
      usage ? fact("answer.tokens", { n: count(usage.completion_tokens), prompt: count(usage.prompt_tokens) }) : null,
      tokensPerS ? fact("unit.value", { value: perSecond(tokensPerS) }) : null,
      firstTokenS != null ? fact("answer.first_token", { time: seconds(firstTokenS) }) : null,
    );
  }
}
