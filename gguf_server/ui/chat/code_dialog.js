// The curl and the Python of what was just asked.

import { address } from "../api.js";
import { copy } from "../clipboard.js";
import { byId } from "../dom.js";
import { say } from "../language.js";
import { curlCode, pythonCode } from "./code.js";

export class CodeDialog {
  constructor() {
    this.dialog = byId("code-dialog");
    byId("close-code").addEventListener("click", () => this.dialog.close());
    for (const name of ["curl", "python"]) {
      const button = byId(`copy-${name}`);
      button.addEventListener("click", async () => {
        const copied = await copy(byId(`code-${name}`).textContent);
        say(button, copied ? "answer.copied" : "answer.not_copied");
      });
    }
  }

  show({ path, request }) {
    const baseUrl = address(`${path}/v1`).href;
    byId("code-curl").textContent = curlCode(baseUrl, request);
    byId("code-python").textContent = pythonCode(baseUrl, request);
    say(byId("copy-curl"), "code.copy_curl");
    say(byId("copy-python"), "code.copy_python");
    this.dialog.showModal();
  }
}
