// The server-sent events of an OpenAI stream.

import { ApiError, unlessAborted } from "./api.js";

// Yields each event's object until [DONE]. Raises ApiError for an error event and for a stream that just stops.
export async function* eventsOf(response) {
  for await (const data of dataOf(response)) {
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error) throw new ApiError("stream", { message: event.error.message, code: event.error.code });
    yield event;
  }
  throw new ApiError("cut");
}

async function* dataOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (pending + value).split(/\r?\n\r?\n/);
      pending = events.pop();
      yield* events.map(dataOfEvent).filter((data) => data !== "");
    }
  } catch (error) {
    throw unlessAborted(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Comments (": keep-alive") and other fields carry no data.
function dataOfEvent(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("cut");
  }
}
