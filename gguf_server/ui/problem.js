// An error, told to the person: what happened, what the server said of it, and when to try again.

import { h } from "./dom.js";
import { say, t } from "./language.js";
import { duration } from "./quantities.js";

export function problemBox(error, ...actions) {
  const box = h("div", { class: "problem-box", role: "alert" }, say(h("p", { class: "problem-title" }), `error.${error.kind}`));
  if (error.detail) box.append(h("p", { class: "problem-detail" }, error.detail));
  if (error.retryAfterS != null) box.append(countdown(error.retryAfterS));
  if (actions.length) box.append(h("div", { class: "actions" }, ...actions));
  return box;
}

export function problemText(error) {
  const wait = error.retryAfterS == null ? "" : ` ${t("error.retry_after", { time: duration(error.retryAfterS) })}`;
  return `${t(`error.${error.kind}`)}${error.detail ? ` (${error.detail})` : ""}${wait}`;
}

// Ticks in silence: a live region would read every second aloud.
function countdown(retryAfterS) {
  const until = Date.now() + 1000 * retryAfterS;
  const line = h("p", { class: "quiet", "aria-live": "off" });
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left > 0) say(line, "error.retry_after", { time: duration(left) });
    else say(line, "error.retry_now");
    return left > 0;
  };
  tick();
  const timer = setInterval(() => (line.isConnected && tick()) || clearInterval(timer), 1000);
  return line;
}
