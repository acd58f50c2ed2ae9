// Requests to the gateway that this page came from. Paths are those of the listener: "/qwen3/status".

export class ApiError extends Error {
  // kind: the key of a text below `error.`; retryAfterS: seconds, or null.
  constructor(kind, { status = null, message = "", code = null, retryAfterS = null } = {}) {
    super(message || kind);
    this.kind = kind;
    this.status = status;
    this.detail = message;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

const KINDS = {
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  413: "too_large",
  429: "too_many",
  500: "engine",
  503: "not_ready",
  504: "timeout",
};

// The page may be behind a proxy's prefix: its own address without its last part is where the listener's root is.
export function address(path) {
  const root = new URL("./", location.href.split(/[?#]/)[0]);
  return new URL(path.replace(/^\//, ""), root);
}

// Raises ApiError for any answer that is not a 2xx; AbortError passes.
export async function ask(path, { key, body, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const request = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    Object.assign(request, { method: "POST", body: JSON.stringify(body) });
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(address(path), request);
  } catch (error) {
    throw unlessAborted(error);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    throw unlessAborted(error);
  }
}

export function unlessAborted(error) {
  return error.name === "AbortError" || error instanceof ApiError ? error : new ApiError("network");
}

async function refusal(response) {
  const told = await response.json().catch(() => ({}));
  const retryAfterS = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ApiError(KINDS[response.status] ?? "refused", {
    status: response.status,
    message: told.error?.message,
    code: told.error?.code,
    retryAfterS: Number.isFinite(retryAfterS) ? retryAfterS : null,
  });
}
