// One answer as it comes: what was thought and said, by whom, how fast.

import { ask } from "../api.js";
import { eventsOf } from "../events.js";

export class Answer {
  thought = "";
  text = "";
  usage = null;
  finish = null;
  engine = null;
  nFailovers = 0;
  nDropped = 0;
  firstTokenS = null;
  tokensPerS = null;

  // Raises ApiError and AbortError; what came before stays in the fields. `onChange` is called after each event.
  async read(path, { key, body, signal, onChange }) {
    const began = performance.now();
    let first = null;
    let last = null;
    try {
      const response = await ask(`${path}/v1/chat/completions`, { key, body, signal });
      this.#takeHeaders(response.headers);
      for await (const event of eventsOf(response)) {
        if (this.#take(event)) {
          last = performance.now();
          first ??= last;
          this.firstTokenS ??= (first - began) / 1000;
        }
        onChange();
      }
    } finally {
      const nTokens = this.usage?.completion_tokens ?? 0;
      if (nTokens > 1 && last > first) this.tokensPerS = (1000 * (nTokens - 1)) / (last - first);
    }
  }

  #takeHeaders(headers) {
    this.engine = headers.get("x-engine");
    this.nFailovers = Number(headers.get("x-engine-failovers") ?? 0);
    this.nDropped = Number(headers.get("x-context-truncated") ?? 0);
  }

  // Whether there was text in it.
  #take(event) {
    this.usage = event.usage ?? this.usage;
    this.engine = event.x_engine ?? this.engine; // another engine goes on from here
    this.nFailovers = event.x_engine_failovers ?? this.nFailovers;
    const [choice] = event.choices ?? [];
    this.finish = choice?.finish_reason ?? this.finish;
    const thought = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
    const text = choice?.delta?.content ?? "";
    this.thought += thought;
    this.text += text;
    return thought !== "" || text !== "";
  }
}
