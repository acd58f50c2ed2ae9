// System prompt and sampling. An empty field is left to the service, whose value it shows.

import { byId } from "../dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const WIDE = matchMedia("(min-width: 64rem)");

export class Options {
  constructor() {
    this.form = byId("options-form");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    const panel = byId("options");
    const fold = () => (panel.open = WIDE.matches);
    WIDE.addEventListener("change", fold);
    fold();
  }

  serve(defaults) {
    for (const name of NUMBERS) {
      this.form.elements[name].placeholder = defaults?.[name] ?? "";
    }
    this.form.elements.max_tokens.max = defaults?.max_model_len ?? "";
  }

  clear() {
    this.form.reset();
  }

  get system() {
    return this.form.elements.system.value;
  }

  // The fields of the request that were given. A value that cannot be is shown to the person, and this is null.
  given() {
    if (!this.form.checkValidity()) {
      byId("options").open = true;
      this.form.reportValidity();
      return null;
    }
    const fields = {};
    for (const name of NUMBERS) {
      if (this.form.elements[name].value !== "") fields[name] = this.form.elements[name].valueAsNumber;
    }
    const thinking = this.form.elements.thinking.value;
    if (thinking) fields.enable_thinking = thinking === "on";
    return fields;
  }
}
