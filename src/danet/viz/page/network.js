// What an exported page has instead of a server: the network itself, which answers in a worker of the browser.

import { countDown, fetched } from "./server.js";
import { say } from "./words.js";

const LONGEST = 1024; // pixels of the picture that is shown

/** A function that has the network encode an image file, and gives name and bytes of the answer to `join`. */
export function connect(tell, join) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  const answerTo = (number) => new Promise((answered) => waiting.set(number, answered));
  const facts = fetched("page.json").then((response) => response.json());
  const loaded = Promise.all([facts, answerTo(0)]).catch(() => [null, {}]);
  let pace = null; // seconds a pixel, of the last image
  let asked = 0;
  worker.addEventListener("message", ({ data: { number, ...answer } }) => {
    waiting.get(number)?.(answer);
    waiting.delete(number);
  });
  worker.addEventListener("error", () => {
    for (const answered of waiting.values()) answered({ message: say("no_network") });
    waiting.clear();
  });
  return send;

  async function send(file) {
    const { name } = file;
    const failed = (message) => tell(say("failed", { name, message }));
    tell(say("loading"));
    const [told, { pace: tried }] = await loaded;
    if (!tried) return failed(say("no_network"));
    // colours as they stand in the file, as danet reads them
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => null);
    if (!bitmap) return failed(say("unreadable"));
    const { width, height } = bitmap;
    const least = told.smallest;
    if (Math.min(width, height) < least) return failed(say("too_small", { width, height, least }));
    const [image, pixels] = await seen(bitmap, name, told);
    const start = performance.now();
    const size = image.width * image.height;
    const end = countDown(tell, (pace ?? tried) * size, (seconds) =>
      seconds > 0 ? say("encoding", { name, seconds }) : say("encoding_soon", { name }),
    );
    worker.postMessage({ number: ++asked, facts: told, image, pixels }, [pixels.buffer]);
    const { bytes, message } = await answerTo(asked);
    end();
    if (message) return failed(message);
    pace = (performance.now() - start) / 1000 / size;
    await join(name, async () => bytes);
  }
}

/** An image's facts, with what is shown of it as a JPEG, and its pixels as the network sees them. */
async function seen(bitmap, name, { longest, smallest }) {
  const [shown, input] = [drawn(bitmap, LONGEST, 1), drawn(bitmap, longest, smallest)];
  const blob = await shown.canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
  const { width, height } = input.canvas;
  const facts = {
    name,
    width,
    height,
    shown: [shown.canvas.height, shown.canvas.width],
    original: [bitmap.height, bitmap.width],
    picture: new Uint8Array(await blob.arrayBuffer()),
  };
  return [facts, input.getImageData(0, 0, width, height).data];
}

/** The image on a canvas, at most `longest` pixels and at least `smallest` a side. */
function drawn(bitmap, longest, smallest) {
  const factor = Math.min(1, longest / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(Math.round(side * factor), smallest));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context;
}
