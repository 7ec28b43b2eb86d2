// Server-sent events from a body of bytes.
// Invariant: a line is read once, however the bytes were split.

const encoder = new TextEncoder();

/** `onData` gets the text of each event, `onComment` the text after a colon, `onTaken` the bytes up to the end of the last whole event. */
export async function readEvents(body, { onData, onComment = () => {}, onTaken = null }) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  let num_bytes = 0;
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
      for (const line of lines) {
        take(line.endsWith("\r") ? line.slice(0, -1) : line);
        if (!onTaken) continue;
        num_bytes += encoder.encode(line).length + 1;
        if (!data.length) onTaken(num_bytes);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // also when a callback has thrown
  }
}
