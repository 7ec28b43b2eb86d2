// A tool loop of the AI SDK at its defaults: node loop.mjs BASE_URL. Prints what came as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false; // they would go to stdout
const provider = createOpenAICompatible({ name: "local", baseURL: process.argv[2], includeUsage: true });
const withSchemas = createOpenAICompatible({ name: "local", baseURL: process.argv[2], supportsStructuredOutputs: true });
const given = [];
const add = tool({
    description: "adds",
    inputSchema: z.object({ a: z.number().int(), b: z.string() }),
    execute: async (input) => {
        given.push(input);
        return "7";
    },
});
const asked = { model: provider("agent"), prompt: "cat", tools: { add }, stopWhen: stepCountIs(5) };

const whole = await generateText(asked);
const stream = streamText(asked);
const kinds = new Set();
for await (const part of stream.fullStream) kinds.add(part.type);
const answer = await generateText({
    model: withSchemas("smollm2"),
    prompt: "Is the sky blue?",
    output: Output.object({ schema: z.object({ isBlue: z.boolean() }) }),
});
const describe = (steps) => steps.map(({ reasoningText, text, toolCalls, finishReason }) => ({ reasoningText, text, calls: toolCalls.length, finishReason }));
console.log(
    JSON.stringify({
        given,
        whole: { text: whole.text, steps: describe(whole.steps) },
        stream: { text: await stream.text, steps: describe(await stream.steps), kinds: [...kinds], usage: (await stream.totalUsage).outputTokens },
        answer: answer.output,
    }),
);
