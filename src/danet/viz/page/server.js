// What a served page has of its server: answers to images, how long they take, and whether it is still there.

import { say } from "./words.js";

const LOOK_EVERY = 10_000; // milliseconds
const SMALL = 2 ** 21; // pixels to which a file with too many bytes is shrunk

/** What a server says instead of an answer; `seconds` is the wait until the next try, where it is busy. */
export class Refusal extends Error {
  constructor({ code, message, longest }, seconds) {
    super(message);
    Object.assign(this, { code, longest, seconds });
  }
}

/** A response of the server; throws Refusal for one that is none of success, TypeError where no server is. */
export async function fetched(address, options) {
  const response = await fetch(address, options);
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refusal(told.error ?? { message: `HTTP ${response.status}` }, Number(response.headers.get("Retry-After")));
}

/**
 * A function that has the server encode an image file, and gives name and bytes of the answer to `join`.
 *
 * `tell` is told of the seconds left and of all that goes wrong: text, or text, a button's and what that does. It is
 * told too when the server is gone, for which is looked every ten seconds.
 */
export function connect(tell, join) {
  let model = null;
  let gone = false;
  look();
  setInterval(() => document.hidden || look(), LOOK_EVERY);
  return send;

  async function look() {
    try {
      model = await (await fetched("v1/model")).json();
      if (gone) tell(say("back"));
      gone = false;
    } catch {
      gone = true;
      tell(say("gone"));
    }
  }

  async function send(file, longest) {
    const { name } = file;
    if (file.size > model?.limits.bytes) return offer(name, () => smaller(file, SMALL));
    const { width, height } = await sizeOf(file);
    const seen = width * height * Math.min(1, (model?.longest ?? Infinity) / Math.max(width, height)) ** 2;
    const end = countDown(tell, (seen / 1e6) * (model?.seconds_per_megapixel ?? 0), (seconds) =>
      seconds > 0 ? say("encoding", { name, seconds }) : say("encoding_soon", { name }),
    );
    const query = new URLSearchParams({ name, ...(longest && { longest }) });
    const headers = { "Content-Type": "application/octet-stream" };
    try {
      const response = await fetched(`v1/attention?${query}`, { method: "POST", body: file, headers });
      const bytes = await response.arrayBuffer();
      end();
      await join(name, async () => bytes);
    } catch (error) {
      end();
      refused(error, file, width * height);
    }
  }

  /** Says what the server says to a file, and does what may help. */
  function refused(error, file, pixels) {
    const { name } = file;
    if (!(error instanceof Refusal)) {
      gone = true;
      tell(say("gone"));
    } else if (error.code === "busy") {
      const end = countDown(tell, error.seconds, (seconds) => say("busy", { seconds: Math.max(seconds, 0) }));
      setTimeout(() => {
        end();
        send(file);
      }, 1000 * error.seconds);
    } else if (error.longest) offer(name, () => send(file, error.longest));
    else if (error.code === "too_large_pixels") offer(name, () => smaller(file, Infinity));
    else if (error.code === "too_large_bytes") offer(name, () => smaller(file, SMALL));
    else if (error.code === "too_slow") offer(name, () => smaller(file, pixels / 4));
    else tell(say("failed", { name, message: error.message }));
  }

  function offer(name, shrink) {
    tell(say("too_large", { name }), say("shrink"), shrink);
  }

  /** Sends a JPEG of at most so many pixels, and as the server allows, where the browser can read the file. */
  async function smaller(file, pixels) {
    const { name } = file;
    const image = await createImageBitmap(file).catch(() => null);
    if (!image) return tell(say("failed", { name, message: say("unreadable") }));
    const most = Math.min(pixels, model?.limits.pixels ?? Infinity);
    const factor = Math.min(1, Math.sqrt(most / (image.width * image.height)));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(image.width * factor));
    canvas.height = Math.max(1, Math.floor(image.height * factor));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => send(new File([blob], name)), "image/jpeg", 0.92);
  }
}

/** Tells each second of the seconds left; returns what ends that. */
export function countDown(tell, seconds, text) {
  const last = performance.now() + 1000 * seconds;
  const tick = () => tell(text(Math.round((last - performance.now()) / 1000)));
  const timer = setInterval(tick, 1000);
  tick();
  return () => clearInterval(timer);
}

/** Width and height of an image file; 1 where the browser cannot read it. */
async function sizeOf(file) {
  return createImageBitmap(file).catch(() => ({ width: 1, height: 1 }));
}
