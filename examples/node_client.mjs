// The gateway from Node (18 or newer) or a browser, without any package.
//
//     embedmill serve                     in another terminal
//     node examples/node_client.mjs

const url = process.env.GATEWAY_URL ?? "http://127.0.0.1:8080";
const key = process.env.GATEWAY_KEY ?? "unused";
const documents = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function embed(input, options = {}, tries = 5) {
  const response = await fetch(`${url}/v1/embeddings`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: "all-MiniLM-L6-v2", input, encoding_format: "base64", ...options }),
    signal: AbortSignal.timeout(60_000),
  });
  const body = await response.json();
  if (response.ok) return body.data.map(({ embedding }) => vector(embedding));
  // The gateway says whether another try may succeed, and when.
  if (response.headers.get("x-should-retry") !== "true" || tries <= 1) throw new Error(body.error.message);
  await pause(Number(response.headers.get("retry-after-ms")));
  return embed(input, options, tries - 1);
}

// base64 of float32, a third of what the numbers would take as text
function vector(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

const [question] = await embed("what waits?", { input_type: "query" });
const vectors = await embed(documents, { input_type: "passage" });
const scored = documents.map((text, i) => [dot(vectors[i], question), text]);
for (const [score, text] of scored.sort((a, b) => b[0] - a[0])) console.log(score.toFixed(3), text);

await embed("").catch((error) => console.log("refused:", error.message));
