// The same request from elsewhere: with curl, and with OpenAI's Python SDK. The key is a variable of the environment,
// and an image stands for itself by its first characters.

const KEY_VARIABLE = "GGUF_SERVER_KEY";
const INDENT = "    ";
const OPENAI_FIELDS = new Set(["model", "messages", "temperature", "top_p", "max_tokens", "seed", "stream", "stream_options"]);

export function curlCode(baseUrl, request) {
  // No line of the JSON can be the end mark: they begin with a brace, a bracket, a quote or a space.
  return [
    `curl --no-buffer '${baseUrl.replaceAll("'", "%27")}/chat/completions' \\`,
    `  -H "Authorization: Bearer $${KEY_VARIABLE}" \\`,
    "  -H 'Content-Type: application/json' \\",
    "  -d @- <<'JSON'",
    JSON.stringify(withShortImages(request), null, 2),
    "JSON",
  ].join("\n");
}

export function pythonCode(baseUrl, request) {
  const known = Object.entries(request).filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.fromEntries(Object.entries(request).filter(([name]) => !OPENAI_FIELDS.has(name)));
  const fields = Object.keys(extra).length ? [...known, ["extra_body", extra]] : known;
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(baseUrl)}, api_key=os.environ["${KEY_VARIABLE}"])`,
    "stream = client.chat.completions.create(",
    ...fields.map(([name, value]) => `${INDENT}${name}=${literal(withShortImages(value), INDENT)},`),
    ")",
    "for chunk in stream:",
    `${INDENT}if chunk.choices:`,
    `${INDENT.repeat(2)}print(chunk.choices[0].delta.content or "", end="", flush=True)`,
    "print()",
  ].join("\n");
}

function withShortImages(value) {
  if (typeof value === "string") {
    return /^data:image\/[\w+.-]+;base64,/.test(value) ? `${value.slice(0, value.indexOf(",") + 1)}…` : value;
  }
  if (Array.isArray(value)) return value.map(withShortImages);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withShortImages(inner)]));
}

// A JSON value as Python writes it; JSON's strings are Python's as well.
function literal(value, indent) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = indent + INDENT;
  const parts = Array.isArray(value)
    ? value.map((item) => literal(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = `${open}${parts.join(", ")}${close}`;
  if (indent.length + line.length <= 80 && !line.includes("\n")) return line;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}
