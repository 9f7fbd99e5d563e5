// The Vercel AI SDK: its OpenAI provider with another base URL.
//
//     npm ci && node vercel_ai.mjs
//
// PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const penstock = createOpenAI({
  baseURL: `${process.env.PENSTOCK_BASE_URL ?? "http://127.0.0.1:4000"}/v1`,
  apiKey: process.env.PENSTOCK_API_KEY ?? "unused",
});
const model = penstock.chat(process.env.PENSTOCK_MODEL ?? "auto"); // penstock.responses(…) speaks the Responses API

const { text } = await generateText({ model, prompt: "What is a penstock?" });
console.log("answer:", text);

process.stdout.write("stream: ");
for await (const piece of streamText({ model, prompt: "What is a penstock?" }).textStream) {
  process.stdout.write(piece);
}
console.log();

const getWeather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string(), unit: z.enum(["celsius", "fahrenheit"]) }),
  execute: async ({ city }) => `18 degrees and sunny in ${city}`,
});
const agent = await generateText({
  model: penstock.chat(process.env.PENSTOCK_TOOL_MODEL ?? process.env.PENSTOCK_MODEL ?? "auto"),
  prompt: "How is the weather in Zürich?",
  tools: { get_weather: getWeather },
  stopWhen: stepCountIs(3),
});
const calls = agent.steps.flatMap((step) => step.toolCalls);
console.log("tools called:", calls.map((call) => call.toolName).join(", ") || "none");
console.log("with tools:", agent.text);
