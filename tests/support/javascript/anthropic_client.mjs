// The script of the tests with the official Anthropic client for JavaScript; prints one JSON object.
//
//     node anthropic_client.mjs BASE_URL KEY SERVER
import Anthropic from "@anthropic-ai/sdk";
import { answersOf, failureOf, script } from "./script.mjs";

const [baseURL, apiKey, server] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const { question, pixel, pixelType, longQuestion, weather, city } = script;

const tools = [{ name: "get_weather", input_schema: weather }];
const image = { type: "image", source: { type: "base64", media_type: pixelType, data: pixel } };
const scenarios = {
  text: {},
  tools: { tools },
  "parallel-tools": { tools },
  structured: { output_config: { format: { type: "json_schema", schema: city } } },
  image: { messages: [{ role: "user", content: [image, { type: "text", text: "What is this?" }] }] },
  long: { messages: [{ role: "user", content: longQuestion }] },
  thinking: { max_tokens: 4096, thinking: { type: "enabled", budget_tokens: 2048 } },
};
const ask = (scenario, more = {}) => ({
  model: `${server}:${scenario}`,
  max_tokens: 1024,
  messages: [{ role: "user", content: question }],
  ...scenarios[scenario],
  ...more,
});

async function eventsOf(scenario) {
  const events = [];
  for await (const event of await client.messages.create(ask(scenario, { stream: true }))) events.push(event);
  return events;
}

async function left() {
  for await (const _ of await client.messages.create(ask("slow", { stream: true }))) break;
  return "left";
}

const found = {
  messages: await answersOf(scenarios, (scenario) => client.messages.create(ask(scenario))),
  events: await answersOf(scenarios, eventsOf),
  final: await answersOf(scenarios, (scenario) => client.messages.stream(ask(scenario)).finalMessage()),
  errors: [
    await failureOf(() => client.messages.create(ask("error-400"))),
    await failureOf(() => client.messages.create(ask("error-429", { stream: true }))),
  ],
  slow: await left(),
};
console.log(JSON.stringify(found));
