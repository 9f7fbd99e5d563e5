// The official Anthropic client, in front of any provider: Penstock speaks its format and translates where needed.
//
//     npm ci && node anthropic.mjs
//
// PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.PENSTOCK_BASE_URL ?? "http://127.0.0.1:4000", // without /v1: the client adds it
  apiKey: process.env.PENSTOCK_API_KEY ?? "unused",
});
const model = process.env.PENSTOCK_MODEL ?? "auto";
const question = { model, max_tokens: 1024, messages: [{ role: "user", content: "What is a penstock?" }] };

const message = await client.messages.create(question);
for (const block of message.content) {
  if (block.type === "text") console.log("answer:", block.text);
}

process.stdout.write("stream: ");
const stream = client.messages.stream(question);
stream.on("text", (text) => process.stdout.write(text));
const final = await stream.finalMessage();
console.log(`\nstopped: ${final.stop_reason} after ${final.usage.output_tokens} tokens`);
