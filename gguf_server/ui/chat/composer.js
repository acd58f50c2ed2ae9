// Where the question is written: Enter sends, Shift+Enter begins a line (on a touch screen Enter does), Escape stops
// the answer.

import { byId } from "../dom.js";
import { say, unsay } from "../language.js";
import { Images, imagesIn } from "./images.js";

const TOUCH = matchMedia("(pointer: coarse)");

export class Composer {
  // onSend({text, images}): whether it was sent; onStop(); onProblem(sentence), null: images are not taken here.
  constructor({ onSend, onStop, onProblem }) {
    this.onSend = onSend;
    this.onStop = onStop;
    this.question = byId("question");
    this.images = new Images(byId("thumbnails"), { onProblem, onRemoved: () => this.question.focus() });
    this.takesImages = true; // as long as no service is known
    this.isReady = false;
    this.isBusy = false;
    this.#listen();
  }

  #listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.question.addEventListener("keydown", (event) => {
      // While an input method composes a letter, Enter is its own; a keyboard on the screen has no Shift+Enter.
      if (TOUCH.matches) return;
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isBusy && !document.querySelector("dialog[open]")) this.onStop();
    });
    byId("stop").addEventListener("click", () => this.onStop());
    this.#listenForImages();
  }

  #listenForImages() {
    const file = byId("image-file");
    byId("add-image").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      await this.images.add([...file.files]);
      file.value = "";
      this.question.focus();
    });
    this.question.addEventListener("paste", (event) => {
      // A word processor puts a picture of its text beside the text.
      if (!event.clipboardData.getData("text/plain")) this.#take(event, event.clipboardData);
    });
    const target = byId("chat");
    target.addEventListener("dragover", (event) => {
      event.preventDefault();
      target.classList.toggle("dropping", this.takesImages);
    });
    target.addEventListener("dragleave", (event) => {
      if (!target.contains(event.relatedTarget)) target.classList.remove("dropping");
    });
    target.addEventListener("drop", (event) => {
      target.classList.remove("dropping");
      this.#take(event, event.dataTransfer);
    });
  }

  #take(event, transfer) {
    const files = imagesIn(transfer);
    if (!files.length) return;
    event.preventDefault();
    if (this.takesImages) this.images.add(files);
    else this.images.onProblem(null);
  }

  serve({ takesImages, maxBytes, isReady }) {
    this.takesImages = takesImages;
    this.images.maxBytes = maxBytes;
    byId("add-image").disabled = !(isReady && takesImages);
    this.isReady = isReady;
    this.#show();
  }

  send() {
    const question = { text: this.question.value.trimEnd(), images: this.images.urls };
    if (this.isBusy || !this.isReady || (!question.text && !question.images.length)) return;
    if (question.images.length && !this.takesImages) this.images.onProblem(null);
    else if (this.onSend(question)) this.clear();
  }

  clear() {
    this.question.value = "";
    this.images.replace([]);
  }

  // Puts a question back to be changed; what is written there already stays, below it.
  restore({ text, images }) {
    this.question.value = [text, this.question.value].filter(Boolean).join("\n");
    this.images.replace([...images, ...this.images.urls]);
    this.question.focus();
  }

  setBusy(isBusy) {
    const hadFocus = byId("stop") === document.activeElement;
    this.isBusy = isBusy;
    this.#show();
    if (hadFocus) this.question.focus();
  }

  #show() {
    byId("stop").hidden = !this.isBusy;
    byId("send").hidden = this.isBusy;
    byId("send").disabled = !this.isReady;
    const hint = byId("composer-hint");
    if (this.isBusy) say(hint, "composer.hint_busy");
    else if (this.isReady) say(hint, "composer.hint");
    else unsay(hint);
  }
}
