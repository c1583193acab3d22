// fairseq's label-smoothed sum in JavaScript, for
//
//     multismooth check --exec 'node loss.js 0.1' -c fairseq --reduction sum
//
// Arguments: the label smoothing, and "all" to spread it over all K classes (a wrong port).
"use strict";

const PAD = 1; // fairseq ignores the class 1
const eps = Number(process.argv[2] || 0);
const overAll = process.argv[3] === "all";

function answer({ shape, logits, labels }) {
  const k = shape[shape.length - 1];
  if (labels.length * k !== logits.length) return { error: "labels that are not one a row" };
  const gradient = new Array(logits.length).fill(0);
  let loss = 0;
  for (let i = 0; i < labels.length; i++) {
    const y = labels[i];
    if (y === PAD) continue;
    if (!(y >= 0 && y < k)) return { error: `the label ${y} names no class` };
    const row = logits.slice(i * k, (i + 1) * k).map((x) => (x === "-inf" ? -Infinity : Number(x)));
    const top = Math.max(...row);
    const lse = top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
    for (let j = 0; j < k; j++) {
      const q = overAll ? (j === y ? 1 - eps : 0) + eps / k : j === y ? 1 - eps : eps / (k - 1);
      if (q > 0) loss += q * (lse - row[j]);
      gradient[i * k + j] = Math.exp(row[j] - lse) - q;
    }
  }
  return { loss, gradient };
}

const text = (name, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => console.log(JSON.stringify(answer(JSON.parse(line)), text)));
