// The official OpenAI client: only the base URL and the key are Penstock's.
//
//     npm ci && node openai.mjs
//
// PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks.
import OpenAI from "openai";

const baseURL = `${process.env.PENSTOCK_BASE_URL ?? "http://127.0.0.1:4000"}/v1`;
const client = new OpenAI({ baseURL, apiKey: process.env.PENSTOCK_API_KEY ?? "unused" });
const model = process.env.PENSTOCK_MODEL ?? "auto";
const messages = [{ role: "user", content: "What is a penstock?" }];

const { data: answer, response } = await client.chat.completions.create({ model, messages }).withResponse();
console.log("answer:", answer.choices[0].message.content);
console.log("from:", response.headers.get("x-penstock-model"));

process.stdout.write("stream: ");
const stream = await client.chat.completions.create({ model, messages, stream: true });
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();

const response2 = await client.responses.create({ model, input: "What is a penstock?", store: false });
console.log("responses:", response2.output_text);
