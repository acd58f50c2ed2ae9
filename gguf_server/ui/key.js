// The person's API key: asked for once, kept for this tab alone, shown to nobody and written into no code.

import { askJson } from "./api.js";
import { byId } from "./dom.js";
import { problemText } from "./problem.js";

const KEPT = "gguf-server.key";

export class Key {
  // onAccepted: called with what `/ui/services` tells whoever has a right key; onForgotten: when there is none any more.
  constructor({ onAccepted, onForgotten }) {
    this.onAccepted = onAccepted;
    this.onForgotten = onForgotten;
    this.dialog = byId("key-dialog");
    this.input = byId("key");
    byId("open-key").addEventListener("click", () => this.askFor());
    byId("close-key").addEventListener("click", () => this.dialog.close());
    byId("forget-key").addEventListener("click", () => this.forget());
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.offer(this.input.value.trim());
    });
  }

  get value() {
    return sessionStorage.getItem(KEPT);
  }

  askFor(error = null) {
    byId("key-problem").textContent = error ? problemText(error) : "";
    byId("forget-key").hidden = !this.value;
    this.input.value = "";
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
  }

  async start() {
    if (!this.value) return this.askFor();
    try {
      this.onAccepted(await servicesFor(this.value));
    } catch (error) {
      this.askFor(error);
    }
  }

  async offer(key) {
    if (!key) return this.input.focus();
    let services;
    try {
      services = await servicesFor(key);
    } catch (error) {
      byId("key-problem").textContent = problemText(error);
      this.input.select();
      return;
    }
    sessionStorage.setItem(KEPT, key);
    this.input.value = "";
    this.dialog.close();
    this.onAccepted(services);
  }

  forget() {
    sessionStorage.removeItem(KEPT);
    this.onForgotten();
    this.askFor();
  }
}

function servicesFor(key) {
  return askJson("/ui/services", { key });
}
