// What a program written for Ollama's own JavaScript client does; prints one JSON object of what it saw.
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , folder, host, model, embedding] = process.argv;
const { Ollama } = createRequire(join(folder, "node_modules", "x.js"))("ollama");
const client = new Ollama({ host });
const question = [{ role: "user", content: "Say the word hello and nothing else." }];
const options = { temperature: 0, num_predict: 12 };
const seen = {};

async function failureOf(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return { text: error.message, status: error.status_code ?? null };
  }
}

seen.whole = (await client.chat({ model, messages: question, options })).message.content;
seen.pieces = [];
for await (const part of await client.chat({ model, messages: question, options, stream: true })) {
  seen.pieces.push(part.message.content);
  seen.last = part;
}
const generated = await client.generate({ model, prompt: "Count: 1, 2,", raw: true, options });
seen.generated = generated.response;
const schema = {
  type: "object",
  properties: { ok: { type: "boolean" } },
  required: ["ok"],
  additionalProperties: false,
};
const formed = await client.chat({ model, messages: question, format: schema, options });
seen.formed = JSON.parse(formed.message.content);
seen.vectors = (await client.embed({ model: embedding, input: ["a", "b"] })).embeddings.map((one) => one.length);
seen.tags = (await client.list()).models.map((one) => one.name);
seen.running = (await client.ps()).models.map((one) => new Date(one.expires_at).getTime() > Date.now());
seen.info = typeof (await client.show({ model })).model_info;
seen.pulled = [];
for await (const part of await client.pull({ model, stream: true })) seen.pulled.push(part.status);
seen.created = [];
const wish = { model: "parrot", from: model, system: "Repeat.", parameters: { temperature: 0 }, stream: true };
for await (const part of await client.create(wish)) seen.created.push(part.status);
seen.copied = (await client.copy({ source: "parrot", destination: "macaw" })).status;
seen.deleted = [
  (await client.delete({ model: "parrot" })).status,
  (await client.delete({ model: "macaw" })).status,
];
seen.unknown = await failureOf(() => client.chat({ model: "nobody", messages: question }));
seen.wrongOption = await failureOf(() => client.chat({ model, messages: question, options: { top_k: "x" } }));

const long = [{ role: "user", content: "Count to one thousand." }];
const stream = await client.chat({ model, messages: long, options: { num_predict: 2000 }, stream: true });
seen.aborted = await failureOf(async () => {
  for await (const _ of stream) stream.abort();
});
for (let tries = 0; tries < 200; tries++) {
  seen.inFlight = (await (await fetch(`${host}/models/${model}`)).json()).in_flight;
  if (seen.inFlight === 0) break;
}
console.log(JSON.stringify(seen));
