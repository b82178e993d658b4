// What a served page asks of its server: who it is, and the answer to an image.

/** What a server says instead of an answer: `code`, `limit` and, where it is busy, `seconds` until the next try. */
export class Refusal extends Error {
  constructor({ code, message, limit }, seconds) {
    super(message);
    Object.assign(this, { code, limit, seconds });
  }
}

/** The model, its limits and its seconds a megapixel; throws TypeError where no server is. */
export async function askModel() {
  return (await asked("v1/model")).json();
}

/** The answer to an image file, as bytes; `longest` has the server shrink it. Throws Refusal, or TypeError. */
export async function askAttention(file, name, longest) {
  const query = new URLSearchParams({ name, ...(longest ? { longest } : {}) });
  const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
  return (await asked(`v1/attention?${query}`, { method: "POST", body: file, headers })).arrayBuffer();
}

/** The bytes of an answer that the server has. */
export async function askAnswer(address) {
  return (await asked(address)).arrayBuffer();
}

async function asked(address, options) {
  const response = await fetch(address, options);
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refusal(told.error ?? { message: `HTTP ${response.status}` }, Number(response.headers.get("Retry-After")));
}

/** A smaller JPEG of an image file, of at most so many pixels; throws where the browser cannot read the file. */
export async function shrunk(file, pixels) {
  const image = await createImageBitmap(file);
  const factor = Math.min(1, Math.sqrt(pixels / (image.width * image.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(image.width * factor));
  canvas.height = Math.max(1, Math.floor(image.height * factor));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}
