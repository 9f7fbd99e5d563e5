// The script of the tests with the official OpenAI client for JavaScript; prints one JSON object.
//
//     node openai_client.mjs BASE_URL KEY CHAT_SERVER RESPONSES_SERVER
import OpenAI from "openai";
import { answersOf, failureOf, script } from "./script.mjs";

const [baseURL, apiKey, chatServer, responsesServer] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 });
const { question, pixelUrl, longQuestion, weather, city } = script;

const chatTool = { type: "function", function: { name: "get_weather", parameters: weather, strict: true } };
const chat = {
  text: {},
  tools: { tools: [chatTool] },
  "parallel-tools": { tools: [chatTool] },
  structured: { response_format: { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } } },
  image: {
    messages: [{ role: "user", content: [{ type: "text", text: "?" }, { type: "image_url", image_url: { url: pixelUrl } }] }],
  },
  long: { messages: [{ role: "user", content: longQuestion }] },
};
const responsesTool = { type: "function", name: "get_weather", parameters: weather, strict: true };
const responses = {
  text: {},
  tools: { tools: [responsesTool] },
  "parallel-tools": { tools: [responsesTool] },
  structured: { text: { format: { type: "json_schema", name: "city", schema: city, strict: true } } },
  image: { input: [{ role: "user", content: [{ type: "input_image", image_url: pixelUrl, detail: "auto" }] }] },
  long: { input: longQuestion },
  thinking: { reasoning: { effort: "medium" } },
};
const askChat = (scenario, more = {}) => ({
  model: `${chatServer}:${scenario}`,
  messages: [{ role: "user", content: question }],
  ...chat[scenario],
  ...more,
});
const askResponse = (scenario, more = {}) => ({
  model: `${responsesServer}:${scenario}`,
  input: question,
  store: false,
  ...responses[scenario],
  ...more,
});

async function collected(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function left(stream) {
  for await (const _ of stream) break; // leaving the loop aborts the request
  return "left";
}

const found = {
  chat: await answersOf(chat, (scenario) => client.chat.completions.create(askChat(scenario))),
  chatEvents: await answersOf(chat, async (scenario) =>
    collected(await client.chat.completions.create(askChat(scenario, { stream: true, stream_options: { include_usage: true } }))),
  ),
  chatFinal: await answersOf(chat, (scenario) => client.chat.completions.stream(askChat(scenario)).finalMessage()),
  responses: await answersOf(responses, (scenario) => client.responses.create(askResponse(scenario))),
  responsesEvents: await answersOf(responses, async (scenario) =>
    collected(await client.responses.create(askResponse(scenario, { stream: true }))),
  ),
  parsed: (await client.chat.completions.parse(askChat("structured"))).choices[0].message.parsed,
  chatErrors: [
    await failureOf(() => client.chat.completions.create(askChat("error-400"))),
    await failureOf(() => client.chat.completions.create(askChat("error-429", { stream: true }))),
  ],
  responsesErrors: [await failureOf(() => client.responses.create(askResponse("error-400")))],
  slow: [
    await left(await client.chat.completions.create(askChat("slow", { stream: true }))),
    await left(await client.responses.create(askResponse("slow", { stream: true }))),
  ],
};
console.log(JSON.stringify(found));
