// The network of an exported page, off the page's own thread: pixels in, the bytes of an answer out.

import * as ort from "../onnxruntime/ort.wasm.min.mjs";
import { compose } from "./compose.js";

const ROOT = new URL("../", import.meta.url);
ort.env.wasm.wasmPaths = new URL("onnxruntime/", ROOT).href;
// Threads need headers that few static hosts send.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
const TRIAL = 64; // pixels a side
let session = null;
load();

/** Tells, as the answer to number 0, how many seconds a pixel takes, or what went wrong. */
async function load() {
  try {
    session = await ort.InferenceSession.create(new URL("model.onnx", ROOT).href, { executionProviders: ["wasm"] });
    const images = new ort.Tensor("float32", new Float32Array(3 * TRIAL ** 2), [1, 3, TRIAL, TRIAL]);
    await session.run({ images }); // the first run takes longer
    const start = performance.now();
    await session.run({ images });
    self.postMessage({ number: 0, pace: (performance.now() - start) / 1000 / TRIAL ** 2 });
  } catch (error) {
    self.postMessage({ number: 0, message: error.message });
  }
}

/** {number, facts, image, pixels}: the number comes back with the answer's bytes, or with what went wrong. */
self.addEventListener("message", async ({ data: { number, facts, image, pixels } }) => {
  try {
    const { width, height } = image;
    const values = new Float32Array(3 * width * height);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < 3; c++) values[c * width * height + i] = pixels[4 * i + c];
    }
    const images = new ort.Tensor("float32", values, [1, 3, height, width]);
    const found = await session.run({ images });
    const bytes = compose(facts, image, found);
    self.postMessage({ number, bytes }, [bytes]);
  } catch (error) {
    self.postMessage({ number, message: error.message });
  }
});
