// What the tests with JavaScript clients share: the questions, and how answers and failures are gathered.
import { readFileSync } from "node:fs";

export const script = JSON.parse(readFileSync(new URL("script.json", import.meta.url), "utf-8"));

export async function answersOf(scenarios, ask) {
  const answers = {};
  for (const scenario of Object.keys(scenarios)) answers[scenario] = await ask(scenario);
  return answers;
}

export async function failureOf(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? error.statusCode, body: error.error ?? error.responseBody };
  }
  throw new Error("it did not fail");
}
