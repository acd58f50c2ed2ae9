// The machine's GPUs: how full their memory is. They are the same in every service's status.

import { h } from "../dom.js";
import { say } from "../language.js";
import { count, gibibytes } from "../quantities.js";
import { Figure, keep } from "./parts.js";

export class CardsView {
  constructor(element) {
    this.element = element;
    this.none = say(h("p", { class: "quiet" }), "dashboard.no_gpu");
    this.list = h("dl", { class: "figures" });
    this.known = new Map();
    this.element.replaceChildren(this.none, this.list);
  }

  // cards: `gpu` of `/status`, null on a machine without
  show(cards) {
    const numbered = (cards ?? []).map((card, index) => ({ ...card, index }));
    this.none.hidden = numbered.length > 0;
    this.list.hidden = numbered.length === 0;
    keep(this.list, this.known, numbered, (card) => card.index, (card) => new CardView(card));
  }
}

class CardView {
  constructor({ index, name }) {
    this.figure = new Figure("dashboard.card", { bar: true });
    say(this.figure.name, "dashboard.card", { index: count(index), name });
    this.element = this.figure.element;
  }

  show({ memory_used_bytes: used, memory_total_bytes: total }) {
    this.figure.show("dashboard.card_memory", { used: gibibytes(used), total: gibibytes(total) });
    this.figure.fill(used / total);
  }
}
