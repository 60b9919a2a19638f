// A folder in transformers.js: `node transformers_js.mjs FOLDER TASK PRECISION < texts.json`, prints vectors or logits.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } from "@huggingface/transformers";

const [folder, task, precision] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const extra = { session: { x64quantprecision: precision } }; // exact sums on CPUs without VNNI instructions
const options = { dtype: "q8", session_options: { extra, intraOpNumThreads: 1 } };
const texts = JSON.parse(readFileSync(0, "utf8"));
const found = [];
if (task === "feature-extraction") {
  const embed = await pipeline(task, basename(folder), options);
  for (const text of texts) {
    const vector = await embed([text], { pooling: "mean", normalize: true });
    found.push(vector.tolist()[0]);
  }
} else {
  const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
  const model = await AutoModelForSequenceClassification.from_pretrained(basename(folder), options);
  for (const text of texts) {
    const { logits } = await model(await tokenizer([text]));
    found.push(logits.tolist()[0]);
  }
}
console.log(JSON.stringify(found));
