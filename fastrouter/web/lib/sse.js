// Server-sent events from a body of bytes.
// Invariant: a line is read once, however the bytes were split.

/** `onData` gets the text of each event, `onComment` the text after a colon. */
export async function readEvents(body, { onData, onComment = () => {} }) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  const take = (line) => {
    if (line === "") {
      if (data.length) onData(data.join("\n"));
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    } else if (line.startsWith(":")) {
      onComment(line.slice(1).trim());
    }
  };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) take(line.endsWith("\r") ? line.slice(0, -1) : line);
    }
  } finally {
    reader.cancel().catch(() => {}); // also when a callback has thrown
  }
}
