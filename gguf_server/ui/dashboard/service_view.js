// One service: who answers, how busy it is, how fast, and which engine took over from which.

import { h } from "../dom.js";
import { say } from "../language.js";
import { count, decimal, duration, roughly, seconds, since } from "../quantities.js";
import { EngineView } from "./engine_view.js";
import { Figure, keep, Pill, Sparkline } from "./parts.js";
import { inWords } from "./reasons.js";

const LAST_FAILOVERS = 5;

export class ServiceView {
  constructor({ title, model, path }) {
    this.state = new Pill();
    this.figures = Object.fromEntries(
      ["running", "waiting", "speed", "first_token", "requests", "tokens", "moved", "uptime"].map((part) => [
        part,
        new Figure(`service.${part}`, { bar: part === "running" || part === "waiting" }),
      ]),
    );
    this.speeds = new Sparkline();
    this.figures.speed.element.append(this.speeds.element);
    this.engines = h("ol", { class: "engines" });
    this.known = new Map();
    this.failovers = h("ul", { class: "failovers" });
    this.element = h(
      "section",
      { class: "service", hidden: true },
      h("div", { class: "service-head" }, h("h2", {}, title), this.state.element, h("p", { class: "quiet" }, `${model} · ${path || "/"}`)),
      h("dl", { class: "figures" }, ...Object.values(this.figures).map((figure) => figure.element)),
      this.engines,
      say(h("h3", { class: "small-head" }), "service.last_failovers"),
      this.failovers,
    );
  }

  // status: the body of `/status`; nothing changes without
  show({ status }) {
    if (!status) return;
    this.element.hidden = false;
    this.state.show(...stateOf(status));
    this.#showFigures(status);
    const engines = (status.engines ?? []).map((engine) => ({ ...engine, isServing: engine.name === status.engine }));
    keep(this.engines, this.known, engines, (engine) => engine.name, (engine) => new EngineView(engine));
    this.#showFailovers(status.live?.recent_failovers ?? []);
  }

  #showFigures({ queue = {}, totals = {}, live = {}, uptime_s: uptimeS }) {
    const { running, waiting, speed, first_token: firstToken, requests, tokens, moved, uptime } = this.figures;
    running.show("service.of", { n: count(queue.running), max: count(queue.max_concurrent) });
    running.fill(queue.running / queue.max_concurrent);
    waiting.show("service.of", { n: count(queue.waiting), max: count(queue.max_queue) });
    waiting.fill(queue.waiting / queue.max_queue, { alarmsAt: 0.9 });
    speed.show("unit.value", { value: decimal(live.tokens_per_s) });
    this.speeds.add(live.tokens_per_s);
    firstToken.show("unit.value", { value: seconds(live.ttft_s?.p50) });
    firstToken.note(live.ttft_s ? "service.p95" : null, { p95: seconds(live.ttft_s?.p95) });
    requests.show("unit.value", { value: roughly(totals.requests) });
    tokens.show("unit.value", { value: roughly(totals.completion_tokens) });
    tokens.note("service.prompt_tokens", { n: roughly(totals.prompt_tokens) });
    moved.show("unit.value", { value: count(totals.failovers) });
    uptime.show("unit.value", { value: duration(uptimeS) });
  }

  // They come newest first.
  #showFailovers(failovers) {
    const shown = JSON.stringify(failovers);
    if (this.shown === shown) return;
    this.shown = shown;
    const lines = failovers.slice(0, LAST_FAILOVERS).map(failoverLine);
    if (lines.length) this.failovers.replaceChildren(...lines);
    else this.failovers.replaceChildren(say(h("li"), "service.no_failovers"));
  }
}

// scope: the service moved, or requests that had begun did, and how many of them.
function failoverLine({ at, from, to, reason, scope, count: nRequests }) {
  const key = scope === "request" ? "service.failover_of_requests" : "service.failover";
  return say(h("li"), key, {
    when: since(new Date(at)),
    from,
    to: (t) => to ?? t("service.nobody"),
    reason: inWords(reason),
    n: count(nRequests),
  });
}

function stateOf({ ready, draining, engines = [] }) {
  if (draining) return ["busy", "state.draining"];
  if (ready) return ["ok", "state.ready"];
  if (engines.some((engine) => engine.state === "starting")) return ["busy", "state.starting"];
  return ["bad", "state.not_ready"];
}
