// The script of the tests with the Vercel AI SDK and its OpenAI and Anthropic providers; prints one JSON object.
//
//     node vercel_ai_client.mjs BASE_URL KEY KIND SERVER
//
// KIND is chat, responses, messages, or unstored: responses without references to items that the provider keeps.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { answersOf, failureOf, script } from "./script.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false; // it writes them to the standard output
const [baseURL, apiKey, kind, server] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${baseURL}/v1`, apiKey });
const anthropic = createAnthropic({ baseURL: `${baseURL}/v1`, apiKey });
const makers = { chat: openai.chat, responses: openai.responses, unstored: openai.responses, messages: anthropic };
const providerOptions = {
  openai: kind === "unstored" ? { store: false } : {},
  anthropic: { structuredOutputMode: "outputFormat" },
};
const modelOf = (scenario) => makers[kind](`${server}:${scenario}`);
const { question, pixel, pixelType, longQuestion, weather, city } = script;

const tools = {
  get_weather: tool({
    description: "Weather of a city",
    inputSchema: jsonSchema(weather),
    execute: async ({ city, unit }) => `18 degrees and sunny in ${city}, ${unit}`,
  }),
};
const picture = { type: "image", image: pixel, mediaType: pixelType };
const scenarios = {
  text: { prompt: question },
  tools: { prompt: question, tools, stopWhen: stepCountIs(3) },
  "parallel-tools": { prompt: question, tools, stopWhen: stepCountIs(3) },
  image: { messages: [{ role: "user", content: [{ type: "text", text: "What is this?" }, picture] }] },
  long: { prompt: longQuestion },
  thinking: { prompt: question },
};
const ask = (scenario) => ({
  model: modelOf(scenario),
  system: "Be brief.",
  maxRetries: 0,
  providerOptions,
  ...scenarios[scenario],
});

function gistOf(step) {
  return {
    text: step.text,
    thought: step.reasoningText ?? null,
    calls: step.toolCalls.map((call) => [call.toolName, call.input]),
    results: step.toolResults.map((result) => [result.toolName, result.output]),
    finish: step.finishReason,
    usage: [step.usage.inputTokens, step.usage.outputTokens, step.usage.totalTokens],
  };
}

async function streamed(scenario) {
  const result = streamText({ ...ask(scenario), onError: () => {} });
  const pieces = [];
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") pieces.push(part.text);
  }
  return { pieces, steps: (await result.steps).map(gistOf) };
}

async function left() {
  const controller = new AbortController();
  const result = streamText({ ...ask("slow"), prompt: question, abortSignal: controller.signal, onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") controller.abort();
  }
  return "left";
}

const structured = await generateText({
  model: modelOf("structured"),
  prompt: "How big is Zürich?",
  output: Output.object({ schema: jsonSchema(city) }),
  providerOptions,
});
const found = {
  runs: await answersOf(scenarios, async (scenario) => (await generateText(ask(scenario))).steps.map(gistOf)),
  streams: await answersOf(scenarios, streamed),
  structured: structured.output,
  errors: [
    await failureOf(() => generateText({ ...ask("error-400"), prompt: question })),
    await failureOf(() => generateText({ ...ask("error-429"), prompt: question })),
  ],
  slow: await left(),
};
console.log(JSON.stringify(found));
