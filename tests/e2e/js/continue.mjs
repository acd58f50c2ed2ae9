// What VS Code Continue does with `provider: openai`: node continue.mjs API_BASE TOKEN. Prints one JSON object.
import { constructLlmApi } from "@continuedev/openai-adapters";

const [apiBase, apiKey] = process.argv.slice(2);
const api = constructLlmApi({ provider: "openai", apiBase, apiKey });
const model = "smollm2-135m";
const messages = [{ role: "user", content: "Xin chào! 你好！" }];
const { signal } = new AbortController();

const gather = async (stream) => {
  const found = [];
  for await (const chunk of stream) found.push(chunk);
  return found;
};

const chat = { model, messages, max_tokens: 6 };
const whole = await api.chatCompletionNonStream({ ...chat, stream: false }, signal);
const chunks = await gather(api.chatCompletionStream({ ...chat, stream: true }, signal));

// Autocomplete: raw fill-in-the-middle tokens and the stops that Continue brings.
const prompt = "<fim_prefix>def add(a, b):\n    return <fim_suffix>\n\nprint(add(1, 2))<fim_middle>";
const stop = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "</fim_middle>", "\n\n"];
const fill = { model, prompt, max_tokens: 6, temperature: 0.01, stop };
const fim = await gather(api.completionStream({ ...fill, stream: true }, signal));
const fimWhole = await api.completionNonStream({ ...fill, stream: false }, signal);

const models = await api.list();

console.log(JSON.stringify({ whole, chunks, fim, fimWhole, models }));
