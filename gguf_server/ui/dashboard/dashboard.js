// The dashboard: asks every service for its status while somebody looks, and tells a listener of what changed.

import { askJson } from "../api.js";
import { byId } from "../dom.js";
import { say, unsay } from "../language.js";
import { problemText } from "../problem.js";
import { at } from "../quantities.js";
import { CardsView } from "./cards.js";
import { keep } from "./parts.js";
import { ServiceView } from "./service_view.js";

const EVERY_S = 2;
const LIMIT_S = 10;

export class Dashboard {
  #isShown = false;

  constructor(key) {
    this.key = key;
    this.services = [];
    this.known = new Map();
    this.engines = new Map(); // path → who answered last
    this.cards = new CardsView(byId("cards"));
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.#wake());
  }

  serve({ services }) {
    this.services = services;
    this.engines.clear();
    this.#show(services.map((service) => ({ service })));
    this.#wake();
  }

  set isShown(isShown) {
    this.#isShown = isShown;
    this.#wake();
  }

  get #isWatched() {
    return this.#isShown && !document.hidden;
  }

  #wake() {
    clearTimeout(this.timer);
    this.abort?.abort();
    if (this.#isWatched && this.services.length) this.#look();
  }

  // The next look is made when this one has come to its end, later where the server asks for that, and not at all
  // with a key that is refused.
  async #look() {
    const abort = (this.abort = new AbortController());
    const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(1000 * LIMIT_S)]);
    const asked = this.services.map(({ path }) => askJson(`${path}/status`, { key: this.key.value, signal }));
    const answers = await Promise.allSettled(asked);
    if (abort.signal.aborted) return;
    const problem = answers.find((answer) => answer.status === "rejected")?.reason;
    this.#showProblem(problem);
    this.#show(this.services.map((service, i) => ({ service, status: answers[i].value })));
    if (problem?.status === 401) return this.key.askFor(problem);
    const pauseS = Math.max(EVERY_S, problem?.retryAfterS ?? 0);
    this.timer = setTimeout(() => this.#look(), 1000 * pauseS);
  }

  #showProblem(problem) {
    const line = byId("dashboard-problem");
    const text = !problem ? "" : problem.kind ? problemText(problem) : problemText({ kind: "network" });
    line.hidden = text === "";
    if (line.textContent !== text) line.textContent = text;
  }

  // One whose status could not be had now stays as it was.
  #show(found) {
    keep(byId("services"), this.known, found, ({ service }) => service.path, ({ service }) => new ServiceView(service));
    const told = found.filter(({ status }) => status);
    byId("cards").hidden = this.known.size === 0;
    if (!told.length) return unsay(byId("dashboard-age"));
    this.cards.show(told[0].status.gpu);
    say(byId("dashboard-age"), "dashboard.age", { time: at(new Date()) });
    for (const { service, status } of told) this.#tellChange(service, status.engine);
  }

  #tellChange({ path, title }, engine) {
    const before = this.engines.get(path);
    this.engines.set(path, engine);
    if (before === undefined || before === engine) return;
    const news = byId("dashboard-news");
    if (engine) say(news, "dashboard.now_answers", { title, engine });
    else say(news, "dashboard.nobody_answers", { title });
  }
}
