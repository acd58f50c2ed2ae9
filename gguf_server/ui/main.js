// The page: which view is shown, in which language, with whose key.

import { Chat } from "./chat/chat.js";
import { Dashboard } from "./dashboard/dashboard.js";
import { byId } from "./dom.js";
import { Key } from "./key.js";
import { preferredLanguage, rememberLanguage, useLanguage } from "./language.js";

const VIEWS = ["chat", "dashboard"];

class Page {
  constructor() {
    this.key = new Key({
      onAccepted: (found) => this.serve(found),
      onForgotten: () => this.clear(),
    });
    this.chat = new Chat(this.key);
    this.dashboard = new Dashboard(this.key);
  }

  async start() {
    await this.speak(preferredLanguage());
    byId("language").addEventListener("change", (event) => {
      rememberLanguage(event.target.value);
      this.speak(event.target.value);
    });
    addEventListener("hashchange", () => this.show());
    this.show();
    await this.key.start();
  }

  async speak(language) {
    byId("language").value = language;
    await useLanguage(language);
  }

  serve(found) {
    this.chat.serve(found);
    this.dashboard.serve(found);
  }

  // Whoever sits down next finds nothing of what was asked with the key that was taken away.
  clear() {
    this.chat.forget();
    this.serve({ services: [] });
  }

  // A hash that names no view (the skip link's) leaves the page as it is.
  show() {
    const wanted = location.hash.slice(1);
    if (!VIEWS.includes(wanted) && this.view) return;
    this.view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
    for (const view of VIEWS) byId(view).hidden = view !== this.view;
    for (const link of document.querySelectorAll(".bar nav a")) {
      if (link.hash === `#${this.view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.chat.isShown = this.view === "chat";
    this.dashboard.isShown = this.view === "dashboard";
  }
}

new Page().start();
