// The conversation: which service is asked, what was said so far, and the one answer that may be under way.

import { ApiError } from "../api.js";
import { byId, h } from "../dom.js";
import { say, t, unsay } from "../language.js";
import { count } from "../quantities.js";
import { Answer } from "./answer.js";
import { CodeDialog } from "./code_dialog.js";
import { Composer } from "./composer.js";
import { ExchangeView } from "./exchange_view.js";
import { Options } from "./options.js";
import { chatRequest, messagesOf } from "./request.js";

const NEAR_THE_END_PX = 60;

// A mistake of the page's own goes to the console as well.
function told(error) {
  if (error instanceof ApiError) return error;
  reportError(error);
  return new ApiError("page");
}

export class Chat {
  constructor(key) {
    this.key = key;
    this.services = [];
    this.exchanges = [];
    this.abort = null;
    this.options = new Options();
    this.code = new CodeDialog();
    this.status = byId("answer-status");
    this.composer = new Composer({
      onSend: (question) => this.send(question),
      onStop: () => this.abort?.abort(),
      onProblem: (text) => this.#tell(text ?? t("composer.no_images")),
    });
    byId("service").addEventListener("change", () => this.#choose());
    byId("new-conversation").addEventListener("click", () => this.begin());
  }

  set isShown(isShown) {
    if (isShown && !document.querySelector("dialog[open]")) this.composer.question.focus({ preventScroll: true });
  }

  // Embedding services have nothing to say.
  serve({ services, max_body_bytes: maxBodyBytes = 0 }) {
    this.services = services.filter((service) => service.task === "generate");
    this.maxBytes = maxBodyBytes;
    const select = byId("service");
    const chosen = select.selectedOptions[0]?.value;
    select.replaceChildren(...this.services.map(({ path, title, model }) => h("option", { value: path }, `${title} · ${model}`)));
    if (this.services.some((service) => service.path === chosen)) select.value = chosen;
    this.#choose();
    if (this.services.length && !byId("chat").hidden) this.composer.question.focus();
  }

  get service() {
    return this.services.find((service) => service.path === byId("service").value);
  }

  #choose() {
    const { service } = this;
    const facts = byId("service-facts");
    if (service) {
      const images = (t) => t(service.images ? "chat.takes_images" : "chat.text_only");
      say(facts, "chat.facts", { n: count(service.max_model_len), images });
    } else unsay(facts);
    this.options.serve(service && { ...service.defaults, max_model_len: service.max_model_len });
    this.composer.serve({ takesImages: service?.images ?? true, maxBytes: this.maxBytes, isReady: Boolean(service) });
  }

  begin() {
    this.abort?.abort();
    this.abort = null;
    this.composer.setBusy(false);
    this.exchanges = [];
    byId("exchanges").replaceChildren();
    byId("welcome").hidden = false;
    unsay(this.status);
    this.composer.question.focus();
  }

  forget() {
    this.begin();
    this.composer.clear();
    this.options.clear();
  }

  // Whether it was sent.
  send(question) {
    const options = this.options.given();
    if (!options || this.abort || !this.service) return false;
    const { path, title, model } = this.service;
    const request = chatRequest(model, messagesOf(this.options.system, this.exchanges, question), options);
    const exchange = { question, path, title, request, answer: new Answer(), wasStopped: false };
    exchange.view = new ExchangeView(exchange, {
      retry: (again) => this.retry(again),
      edit: (again) => this.edit(again),
      showCode: (shown) => this.code.show(shown),
    });
    this.exchanges.push(exchange);
    byId("welcome").hidden = true;
    byId("exchanges").append(exchange.view.element);
    this.#scrollToEnd();
    this.#answer(exchange);
    return true;
  }

  async #answer(exchange) {
    const abort = (this.abort = new AbortController());
    const { answer, path, request, view } = exchange;
    this.composer.setBusy(true);
    say(this.status, "status.waiting");
    let problem = null;
    try {
      const onChange = () => this.#show(exchange);
      await answer.read(path, { key: this.key.value, body: request, signal: abort.signal, onChange });
    } catch (error) {
      exchange.wasStopped = abort.signal.aborted;
      problem = exchange.wasStopped ? null : told(error);
    }
    const follows = this.#isAtEnd();
    view.finish(problem);
    if (follows) this.#scrollToEnd();
    if (this.abort !== abort) return; // a new conversation was begun
    this.abort = null;
    this.composer.setBusy(false);
    this.#tellEnd(exchange, problem);
  }

  // The text once a frame at most, however fast the tokens come.
  #show(exchange) {
    say(this.status, exchange.answer.text ? "status.answering" : "status.thinking");
    if (exchange.frame) return;
    exchange.frame = requestAnimationFrame(() => {
      exchange.frame = null;
      const follows = this.#isAtEnd();
      exchange.view.update();
      if (follows) this.#scrollToEnd();
    });
  }

  #tellEnd({ answer, wasStopped }, problem) {
    if (problem) {
      say(this.status, "status.failed");
      if (problem.status === 401) this.key.askFor(problem);
    } else if (wasStopped) say(this.status, "status.stopped");
    else say(this.status, "status.done", { n: count(answer.usage?.completion_tokens) });
  }

  // The question is asked anew, at the end of the conversation.
  retry(exchange) {
    this.exchanges = this.exchanges.filter((other) => other !== exchange);
    if (!this.send(exchange.question)) return void this.exchanges.push(exchange);
    exchange.view.element.remove();
    this.composer.question.focus();
  }

  edit(exchange) {
    this.exchanges = this.exchanges.filter((other) => other !== exchange);
    exchange.view.element.remove();
    byId("welcome").hidden = this.exchanges.length > 0;
    this.composer.restore(exchange.question);
  }

  #tell(text) {
    unsay(this.status);
    this.status.textContent = text;
  }

  #isAtEnd() {
    const scroll = byId("scroll");
    return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_THE_END_PX;
  }

  #scrollToEnd() {
    const scroll = byId("scroll");
    scroll.scrollTop = scroll.scrollHeight;
  }
}
