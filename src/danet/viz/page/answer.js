// An answer of danet.viz.answer, a safetensors file, as a view: what one image's attention follows from.

const BYTES = { U8: 1, F16: 2, F32: 4 };

/**
 * The view of an answer's bytes: all its metadata, its tensors by their names there, and what follows for the picture.
 *
 * `picture` is a Blob, labels and channels are Uint8Array, all else is Float32Array; `query` and `key` are whole, with
 * what float16 left out. Besides: `width`, `height`, `grid`, `span`, `windows`, `places`, `depth`, each class's `area`
 * and each place's `mixture` of classes. Throws an Error for bytes that are no answer.
 */
export function decode(buffer) {
  const { metadata, tensors } = opened(buffer);
  const view = { ...metadata, ...tensors, picture: new Blob([tensors.picture], { type: "image/jpeg" }) };
  [view.height, view.width] = metadata.size;
  view.grid = metadata.position?.grid ?? metadata.channel?.grid ?? metadata.size.map((side) => Math.ceil(side / 8));
  view.span = metadata.position?.span ?? view.grid;
  view.windows = metadata.position?.windows ?? null;
  view.places = view.grid[0] * view.grid[1];
  if (metadata.position) {
    view.depth = view.query.length / view.places;
    for (const name of ["query", "key"]) view[`${name}_rest`].forEach((rest, i) => (view[name][i] += rest));
  }
  view.area = areas(view.labels, view.classes.length);
  view.mixture = mixture(view);
  return view;
}

/** The place of the grid, row by row, that covers the pixel (x, y): the picture takes up `span` rows and columns. */
export function placeOf({ grid: [, columns], span, width, height }, x, y) {
  return covering(y, height, span[0]) * columns + covering(x, width, span[1]);
}

/** Of each row of pixels the row of places that covers it, and the same of columns. */
export function covers({ span, width, height }) {
  return [
    Int32Array.from({ length: height }, (_, y) => covering(y, height, span[0])),
    Int32Array.from({ length: width }, (_, x) => covering(x, width, span[1])),
  ];
}

/** A quotient that should be whole may come out a hair below. */
function covering(pixel, size, spanned) {
  return Math.floor((pixel * spanned) / size + 1e-9);
}

/**
 * The pixel in the middle of a place, or its first: with under two pixels a place, a middle can be a neighbour's; or
 * the picture's last, where the middle is beyond its edge.
 */
export function pixelOf({ grid: [, columns], span, width, height }, place) {
  const middle = (index, size, spanned) => {
    const first = Math.ceil((index * size) / spanned);
    return Math.min(Math.max(Math.floor(((index + 0.5) * size) / spanned), first), size - 1);
  };
  return [middle(place % columns, width, span[1]), middle(Math.floor(place / columns), height, span[0])];
}

/** The predicted class of a pixel. */
export function labelAt({ labels, width }, x, y) {
  return labels[y * width + x];
}

/** The bytes of an answer as a page holds it: gzip in base64. */
export async function unpacked(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** The header's own JSON, and every tensor: eight bytes of length, a JSON header, then the arrays. */
function opened(buffer) {
  try {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const { __metadata__, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const metadata = JSON.parse(__metadata__.danet);
    const tensors = {};
    for (const [name, { dtype, data_offsets: [start, end] }] of Object.entries(entries)) {
      tensors[name] = numbers(dtype, buffer.slice(8 + length + start, 8 + length + end));
    }
    if (metadata.format === 1) return { metadata, tensors };
  } catch {
    // told below, as any other file
  }
  throw new Error("not an answer of danet");
}

function numbers(dtype, buffer) {
  if (buffer.byteLength % BYTES[dtype]) throw new Error("cut off");
  if (dtype === "U8") return new Uint8Array(buffer);
  if (dtype === "F32") return new Float32Array(buffer);
  const codes = new Uint16Array(buffer);
  const values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = HALVES[codes[i]];
  return values;
}

/** The value of each float16, by its 16 bits. */
const HALVES = Float32Array.from({ length: 65536 }, (_, code) => {
  const [sign, exponent, fraction] = [code >> 15 ? -1 : 1, (code >> 10) & 31, code & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (Math.max(exponent, 1) - 25) * (fraction + (exponent ? 1024 : 0));
});

function areas(labels, classes) {
  const found = new Float64Array(classes);
  for (const label of labels) found[label] += 1 / labels.length;
  return found;
}

/** Of each place, the share of its pixels in each class; a place so cut off that it has none takes the nearest. */
function mixture(view) {
  const { width, labels, places, grid: [, columns], classes: { length } } = view;
  const found = new Float32Array(places * length);
  const pixels = new Uint32Array(places);
  const [down, across] = covers(view);
  const place = (at) => down[Math.floor(at / width)] * columns + across[at % width];
  labels.forEach((_, at) => pixels[place(at)]++);
  labels.forEach((label, at) => (found[place(at) * length + label] += 1 / pixels[place(at)]));
  pixels.forEach((count, at) => {
    if (!count) found[at * length + labelAt(view, ...pixelOf(view, at))] = 1;
  });
  return found;
}
