// What an application does with OpenAI's SDK: node sdk.mjs BASE_URL TOKEN. Prints one JSON object.
import OpenAI from "openai";

const [baseURL, token] = process.argv.slice(2);
const client = new OpenAI({
  baseURL,
  apiKey: "not-needed",
  defaultHeaders: { Authorization: `Bearer ${token}` },
});
const model = "smollm2-135m";
const messages = [
  { role: "developer", content: "Be brief." },
  { role: "user", content: "Xin chào! 你好！" },
];

const whole = await client.chat.completions.create({
  model,
  messages,
  max_completion_tokens: 6,
  store: true,
  metadata: { from: "test" },
  user: "somebody",
});

const stream = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 6,
  stream: true,
  stream_options: { include_usage: true },
  top_k: 20,
});
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);

const text = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 6 });

const models = [];
for await (const card of client.models.list()) models.push(card);
const card = await client.models.retrieve(model);

const refused = { status: null, code: null };
try {
  await client.chat.completions.create({ model: "gpt-none", messages });
} catch (error) {
  if (!(error instanceof OpenAI.NotFoundError)) throw error;
  Object.assign(refused, { status: error.status, code: error.code });
}

console.log(JSON.stringify({ whole, chunks, text, models, card, refused }));
