// An answer of danet.viz.answer made of what the network of an exported page says of an image (danet.export.explained).

import { decode } from "./answer.js";
import { row, softmax } from "./attention.js";

const CHANNELS = 12; // as danet.inference.explanation, like the two numbers below
const ALIKE = 0.7;
const DRAWS_ON = 5;
const ROWS = 64; // maps of so many places tell how much alike all are

/**
 * The bytes of an answer: `facts` are page.json's; `image` has a name, width and height as the network saw it, [height,
 * width] of the file (`original`) and of what is `shown`, and that as the bytes of a JPEG (`picture`); `tensors` are the
 * network's, each with `data` and `dims`.
 */
export function compose(facts, image, tensors) {
  const labels = tensors.labels.data;
  const counts = new Float64Array(facts.classes.length);
  for (const label of labels) counts[label]++;
  const metadata = {
    format: 1,
    name: image.name,
    size: image.shown,
    original_size: image.original,
    classes: facts.classes.map((one, k) => ({ ...one, share: counts[k] / labels.length })),
    model: facts.model,
    position: tensors.query ? positionFacts(facts, image, tensors) : null,
    channel: null,
  };
  const parts = { picture: ["U8", image.picture, [image.picture.length]] };
  const as = (type, ...names) => names.forEach((name) => (parts[name] = [type, tensors[name].data, tensors[name].dims]));
  const maps = (...names) => names.forEach((name) => (parts[name] = ["U8", ...stretched(tensors[name], image.shown)]));
  maps("labels", "confidence");
  if (metadata.position) {
    as("F16", "query", "query_rest", "key", "key_rest");
    as("F32", "logsumexp");
    Object.assign(parts, colours(tensors));
    maps("gate_labels", "taken_labels", "taken_confidence", "control_labels", "control_confidence");
  }
  if (tensors.channel_energy) {
    const [own, channels] = channelMaps(facts, tensors);
    metadata.channel = own;
    Object.assign(parts, channels);
  }
  if (metadata.position) metadata.position.similarity = similarity(decode(packed(metadata, parts)));
  return packed(metadata, parts);
}

/** One map or several at `size`, each pixel of which has the value of the pixel nearest to it: data and shape. */
function stretched({ data, dims }, [height, width]) {
  const [rows, columns] = dims.slice(-2);
  const count = data.length / (rows * columns);
  const down = Int32Array.from({ length: height }, (_, y) => Math.floor(((2 * y + 1) * rows) / (2 * height)));
  const across = Int32Array.from({ length: width }, (_, x) => Math.floor(((2 * x + 1) * columns) / (2 * width)));
  const found = new Uint8Array(count * height * width);
  for (let k = 0, at = 0; k < count; k++) {
    for (const y of down) for (const x of across) found[at++] = data[(k * rows + y) * columns + x];
  }
  return [found, [...dims.slice(0, -2), height, width]];
}

function positionFacts({ gate, gates, taken, cell }, { width, height }, tensors) {
  const grid = tensors.position_features.dims.slice(-2);
  return {
    gate,
    share: tensors.position_share.data[0],
    grid,
    span: cell ? [height / cell, width / cell] : grid,
    similarity: 1,
    windows: tensors.pool ? windows(tensors.pool, grid) : null,
    gates,
    taken,
  };
}

/** Of each row of weights the first row, end of rows, first column and end of columns of the places that have any. */
function windows({ data, dims: [keys, places] }, [, columns]) {
  return Array.from({ length: keys }, (_, j) => {
    const seen = [];
    for (let i = 0; i < places; i++) if (data[j * places + i]) seen.push(i);
    const across = seen.map((i) => i % columns);
    const [first, last] = [seen[0], seen.at(-1)].map((i) => Math.floor(i / columns));
    return [first, last + 1, Math.min(...across), Math.max(...across) + 1];
  });
}

/** The mean cosine of pairs of maps of places that lie evenly over all. */
function similarity(view) {
  const count = Math.min(ROWS, view.places);
  if (count < 2) return 1;
  const rows = Array.from({ length: count }, (_, i) => row(view, Math.floor((i * view.places) / count)));
  const norms = rows.map((one) => Math.sqrt(product(one, one)));
  let sum = 0;
  for (let i = 0; i < count; i++) for (let j = 0; j < i; j++) sum += product(rows[i], rows[j]) / (norms[i] * norms[j]);
  return sum / ((count * (count - 1)) / 2);
}

/** Features, values and what is gathered by the features' first three principal components, for colours of 0 to 1. */
function colours({ position_features: features, position_gram: gram, value, gathered }) {
  const [channels, rows, columns] = features.dims;
  const places = rows * columns;
  const directions = principal(gram.data, channels);
  const points = directions.map((direction) => along(direction, features.data, places, 1, places));
  const [values, mixed] = [value, gathered].map(({ data, dims: [count] }) =>
    directions.map((direction) => along(direction, data, count, channels, 1)),
  );
  const found = { features: points, value: values, gathered: mixed };
  points.forEach((point, k) => {
    const middle = mean(values[k]);
    const sorted = point.slice().sort();
    const low = quantile(sorted, 0.01);
    const extent = Math.max(quantile(sorted, 0.99) - low, 1.2e-38);
    found.features[k] = point.map((one) => (one - low) / extent);
    for (const name of ["value", "gathered"]) found[name][k] = found[name][k].map((v) => (v - middle) / extent + 0.5);
  });
  return Object.fromEntries(
    Object.entries(found).map(([name, three]) => {
      const count = three[0].length;
      const data = Uint16Array.from({ length: 3 * count }, (_, i) => half(three[i % 3][Math.floor(i / 3)]));
      return [name, ["F16", data, [count, 3]]];
    }),
  );
}

/** How far each of `count` points lies along a direction: point i has its part c at i · next + c · apart. */
function along(direction, data, count, next, apart) {
  const found = new Float64Array(count);
  direction.forEach((part, c) => {
    for (let i = 0; i < count; i++) found[i] += data[i * next + c * apart] * part;
  });
  return found;
}

/** The three directions in which points vary most, by their Gram matrix: power iteration, one after the other. */
export function principal(gram, size, rounds = 300) {
  const found = [];
  for (let k = 0; k < 3; k++) {
    let own = Float64Array.from({ length: size }, (_, i) => Math.sin(1 + i * (k + 1)));
    for (let round = 0; round < rounds; round++) {
      const next = new Float64Array(size);
      for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) next[i] += gram[i * size + j] * own[j];
      for (const one of found) {
        const shared = product(next, one);
        next.forEach((_, i) => (next[i] -= shared * one[i]));
      }
      const length = Math.sqrt(product(next, next));
      if (!length) break; // fewer directions than three
      own = next.map((part) => part / length);
    }
    const largest = own.reduce((most, part) => (Math.abs(part) > Math.abs(most) ? part : most), 0);
    found.push(own.map((part) => part * (Math.sign(largest) || 1))); // a direction's sign is arbitrary
  }
  return found;
}

/** Distinct channels, before and after attention, with those that each draws on most; facts and tensors. */
function channelMaps({ channel_gate: gate, rule }, tensors) {
  const { channel_features: features, channel_gathered: gathered, channel_energy: energy, channel_gram: gram } = tensors;
  const [total, rows, columns] = features.dims;
  const places = rows * columns;
  const keys = energy.dims[1];
  const indices = distinct(gram.data, total);
  const before = new Uint8Array(indices.length * places);
  const after = new Uint8Array(indices.length * places);
  const energies = new Float32Array(indices.length * keys);
  const maps = indices.map((index, k) => {
    const own = features.data.subarray(index * places, (index + 1) * places);
    const low = own.reduce((least, value) => Math.min(least, value), Infinity);
    const extent = Math.max(own.reduce((most, value) => Math.max(most, value), -Infinity) - low, 1.2e-38);
    const byte = (value) => Math.round(255 * Math.min(Math.max((value - low) / extent, 0), 1));
    own.forEach((value, i) => {
      before[k * places + i] = byte(value);
      after[k * places + i] = byte(value + gate * gathered.data[index * places + i]);
    });
    const row = energy.data.subarray(index * keys, (index + 1) * keys);
    energies.set(row, k * keys);
    const weights = softmax(rule === "official" ? row.map((value) => -value) : row);
    const strongest = Array.from(weights.keys()).sort((i, j) => weights[j] - weights[i]);
    return { index, draws_on: strongest.slice(0, DRAWS_ON).map((j) => [j, weights[j]]) };
  });
  const facts = { gate, share: tensors.channel_share.data[0], rule, grid: [rows, columns], maps, total };
  const shape = [indices.length, rows, columns];
  return [
    facts,
    {
      channels: ["U8", before, shape],
      channels_after: ["U8", after, shape],
      channel_energy: ["F32", energies, [indices.length, keys]],
    },
  ];
}

/** At most twelve channels, those that vary most first, none of which correlates with another by 0.7 or more. */
export function distinct(gram, total) {
  const norms = Float64Array.from({ length: total }, (_, i) => Math.sqrt(Math.max(gram[i * total + i], 0)));
  const [first, ...others] = Array.from(norms.keys()).sort((i, j) => norms[j] - norms[i]);
  const chosen = [first];
  const alike = (i, j) => Math.abs(gram[i * total + j]) / (norms[i] * norms[j]);
  for (const index of others) {
    if (chosen.length < CHANNELS && norms[index] > 0 && chosen.every((one) => alike(one, index) < ALIKE)) {
      chosen.push(index);
    }
  }
  return chosen;
}

/** A safetensors file: eight bytes of length, a JSON header, then the arrays, wide ones first so that all lie even. */
function packed(metadata, parts) {
  const width = { F32: 4, F16: 2, U8: 1 };
  const ordered = Object.entries(parts).sort(([, [a]], [, [b]]) => width[b] - width[a]);
  const header = { __metadata__: { danet: JSON.stringify(metadata) } };
  let end = 0;
  for (const [name, [dtype, data, shape]] of ordered) {
    header[name] = { dtype, shape: Array.from(shape), data_offsets: [end, (end += data.byteLength)] };
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  text = new TextEncoder().encode(JSON.stringify(header) + " ".repeat((8 - (text.length % 8)) % 8));
  const bytes = new Uint8Array(8 + text.length + end);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  for (const [name, [, data]] of ordered) {
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    bytes.set(raw, 8 + text.length + header[name].data_offsets[0]);
  }
  return bytes.buffer;
}

/** The 16 bits of the float16 nearest to a value. */
export function half(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const parts = nearest(size * 2 ** (10 - exponent)); // of 2 ** -10 of its power of two
  return sign | (parts < 1024 ? parts : ((exponent + 14) << 10) + parts);
}

/** The nearest whole number, of two the even one. */
function nearest(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function product(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
