// One engine of a service: its state and why, how its plan fits what came of it.

import { h } from "../dom.js";
import { say } from "../language.js";
import { count, gibibytes, perSecond, seconds, since, UNKNOWN } from "../quantities.js";
import { Figure, Pill, sayOrHide } from "./parts.js";
import { adviceFor, inWords } from "./reasons.js";

const PILLS = { ready: "ok", starting: "busy", draining: "busy", failed: "bad", stopped: "idle" };

export class EngineView {
  constructor({ name }) {
    this.state = new Pill();
    this.kind = h("span", { class: "quiet" });
    this.serves = say(h("span", { class: "serves" }), "engine.serves");
    this.figures = Object.fromEntries(
      ["since", "load", "starts", "memory", "speed"].map((part) => [part, new Figure(`engine.${part}`)]),
    );
    this.why = h("p", { class: "why" });
    this.advice = h("p", { class: "quiet" });
    this.detail = h("p", { class: "detail" });
    this.log = h("pre", { tabindex: "0" });
    this.logFold = h("details", { class: "log" }, say(h("summary"), "engine.log"), this.log);
    this.failure = h("div", { class: "failure" }, this.why, this.detail, this.advice, this.logFold);
    this.notes = h("ul", { class: "notes" });
    this.element = h(
      "li",
      { class: "engine" },
      h("div", { class: "engine-head" }, h("h3", {}, name), this.kind, this.serves, this.state.element),
      h("dl", { class: "figures" }, ...Object.values(this.figures).map((figure) => figure.element)),
      this.failure,
      this.notes,
    );
  }

  // engine: an entry of `/status`'s `engines`, with `isServing`
  show(engine) {
    this.state.show(PILLS[engine.state] ?? "idle", `state.${engine.state}`);
    this.kind.textContent = [engine.kind, engine.device].filter(Boolean).join(" · ");
    this.serves.hidden = !engine.isServing;
    this.element.classList.toggle("is-serving", engine.isServing);
    this.#showFigures(engine);
    this.#showFailure(engine.last_failure, engine.state);
    this.#showNotes(engine.plan ?? {});
  }

  #showFigures({ since: from, load_s: loadS, starts, plan }) {
    const { memory, decode_tokens_per_s: speed } = plan ?? {};
    const { figures } = this;
    figures.since.show("unit.value", { value: from ? since(new Date(from)) : UNKNOWN });
    figures.load.show("unit.value", { value: seconds(loadS) });
    figures.starts.show("unit.value", { value: count(starts) });
    besidePlan(figures.memory, memory?.measured_bytes, memory?.predicted_bytes, gibibytes);
    besidePlan(figures.speed, speed?.measured, speed?.predicted, perSecond);
  }

  // Kept by the server until the next good start; behind one that stands by it is history.
  #showFailure(failure, state) {
    this.failure.hidden = !failure;
    const when = failure?.at ? since(new Date(failure.at)) : UNKNOWN;
    sayOrHide(this.why, failure && "engine.why", { reason: inWords(failure?.reason), when });
    this.why.classList.toggle("bad", state === "failed");
    sayOrHide(this.advice, failure && adviceFor(failure.reason));
    sayOrHide(this.detail, failure?.detail && "unit.value", { value: failure?.detail });
    const log = (failure?.log_tail ?? []).join("\n");
    this.logFold.hidden = log === "";
    if (this.log.textContent !== log) this.log.textContent = log;
  }

  #showNotes({ warnings = [], gaps = [] }) {
    const lines = [...warnings.map((text) => ["warning", text]), ...gaps.map((text) => ["gap", text])];
    const shown = JSON.stringify(lines);
    if (this.shown === shown) return;
    this.shown = shown;
    this.notes.hidden = lines.length === 0;
    this.notes.replaceChildren(...lines.map(([kind, text]) => h("li", { class: kind, lang: "en" }, text)));
  }
}

function besidePlan(figure, measured, planned, spell) {
  figure.show("unit.value", { value: spell(measured) });
  figure.note(planned == null ? null : "engine.planned", { planned: spell(planned) });
}
