// Embeddings of a folder by transformers.js: `node transformers_js.mjs FOLDER < texts.json`, prints vectors.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const embed = await pipeline("feature-extraction", basename(folder), { dtype: "q8" });
const vectors = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  const found = await embed([text], { pooling: "mean", normalize: true });
  vectors.push(found.tolist()[0]);
}
console.log(JSON.stringify(vectors));
