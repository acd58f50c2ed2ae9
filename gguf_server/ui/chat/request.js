// What is sent: the conversation so far, and how the answer is to be made.

// exchanges: {question: {text, images: [data URL]}, answer: {text}}. One that got no answer is left out, since many
// chat templates refuse two turns of the same side.
export function messagesOf(system, exchanges, question) {
  const messages = system.trim() ? [{ role: "system", content: system.trim() }] : [];
  for (const { question: asked, answer } of exchanges) {
    if (!answer.text) continue;
    messages.push(userMessage(asked), { role: "assistant", content: answer.text });
  }
  return [...messages, userMessage(question)];
}

function userMessage({ text, images }) {
  if (!images.length) return { role: "user", content: text };
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: text ? [...parts, { type: "text", text }] : parts };
}

// options: what was given of temperature, top_p, max_tokens, seed, enable_thinking; the service's own where absent.
export function chatRequest(model, messages, options) {
  return { model, messages, ...options, stream: true, stream_options: { include_usage: true } };
}
