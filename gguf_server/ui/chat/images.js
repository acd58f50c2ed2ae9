// Pictures that go with the question: from a file, the clipboard or a drop, held as data URLs.

import { h } from "../dom.js";
import { label, t } from "../language.js";

const TYPES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

export const imagesIn = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));

export class Images {
  // list: where the thumbnails are; onProblem: told in words; onRemoved: focus has lost its place.
  constructor(list, { onProblem, onRemoved }) {
    this.list = list;
    this.onProblem = onProblem;
    this.onRemoved = onRemoved;
    this.images = []; // {name, url}
    this.maxBytes = Infinity;
  }

  get urls() {
    return this.images.map((image) => image.url);
  }

  // Adds what can be taken of these files and says why the rest cannot.
  async add(files) {
    for (const file of files) {
      const room = this.maxBytes - this.images.reduce((n, image) => n + image.url.length, 0);
      if (!TYPES.has(file.type)) this.onProblem(t("composer.image_type", { name: file.name }));
      else if ((file.size * 4) / 3 > room) this.onProblem(t("composer.image_size", { name: file.name }));
      else this.images.push({ name: file.name, url: await dataUrl(file) });
    }
    this.show();
  }

  replace(urls) {
    this.images = urls.map((url) => ({ name: "", url }));
    this.show();
  }

  show() {
    this.list.hidden = this.images.length === 0;
    this.list.replaceChildren(...this.images.map((image) => this.thumbnail(image)));
  }

  thumbnail(image) {
    const remove = h("button", { type: "button", class: "remove" }, "×");
    label(remove, "composer.remove_image", { name: image.name });
    remove.addEventListener("click", () => {
      this.images = this.images.filter((other) => other !== image);
      this.show();
      this.onRemoved();
    });
    return h("li", {}, h("img", { src: image.url, alt: image.name, title: image.name }), remove);
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}
