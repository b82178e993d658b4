// What a place of the picture looks at, and what looks at it, from the queries and keys of one image: numbers alone.

import { labelAt, pixelOf, placeOf } from "./answer.js";

/** Of each key, its product with the query of `place`, but for what is the same for all keys. */
export function energies({ query, key, depth }, place) {
  const found = new Float32Array(key.length / depth);
  const own = query.subarray(place * depth, (place + 1) * depth);
  for (let j = 0; j < found.length; j++) found[j] = dot(own, 0, key, j * depth, depth);
  return found;
}

/** Weights that sum to 1; above a temperature of 1, which is DANet's, they are more even. */
export function softmax(values, temperature = 1) {
  const weights = new Float32Array(values.length);
  const top = values.reduce((most, value) => Math.max(most, value), -Infinity);
  let total = 0;
  for (let j = 0; j < weights.length; j++) total += weights[j] = Math.exp((values[j] - top) / temperature);
  for (let j = 0; j < weights.length; j++) weights[j] /= total;
  return weights;
}

/** The weights of keys on the places that they stand for: a key each, or windows of places. */
export function spread({ windows, places, grid: [, columns] }, weights) {
  if (!windows) return weights;
  const found = new Float32Array(places);
  windows.forEach(([above, below, left, right], j) => {
    const each = weights[j] / ((below - above) * (right - left));
    for (let y = above; y < below; y++) for (let x = left; x < right; x++) found[y * columns + x] += each;
  });
  return found;
}

/** What `place` gathers from, which sums to 1: its softmax over all keys, each spread over the places it stands for. */
export function row(view, place, temperature = 1) {
  return spread(view, softmax(energies(view, place), temperature));
}

/** What gathers from `place`: the weight that each place gives to it. */
export function column(view, place) {
  const { query, key, logsumexp, places, depth } = view;
  const weights = new Float32Array(places);
  for (const [j, share] of keysOf(view, place)) {
    const own = key.subarray(j * depth, (j + 1) * depth);
    for (let i = 0; i < places; i++) {
      weights[i] += share * Math.exp(dot(query, i * depth, own, 0, depth) - logsumexp[i]);
    }
  }
  return weights;
}

/** The map of a point of the state, {place, direction}: a row or a column; null for models without such attention. */
export function mapOf(view, { place, direction }, temperature = 1) {
  if (!view.position) return null;
  return direction === "from" ? row(view, place, temperature) : column(view, place);
}

/** The keys that stand for `place`, with its share in each: its own, or those of the windows that it lies in. */
function keysOf({ windows, grid: [, columns] }, place) {
  if (!windows) return [[place, 1]];
  const [y, x] = [Math.floor(place / columns), place % columns];
  const within = ([above, below, left, right]) => above <= y && y < below && left <= x && x < right;
  const area = ([above, below, left, right]) => (below - above) * (right - left);
  return windows.flatMap((window, j) => (within(window) ? [[j, 1 / area(window)]] : []));
}

/** The share of the weight that falls on each class; a place's weight is split over the classes of its pixels. */
export function byClass({ mixture, classes, places }, weights) {
  const found = new Float64Array(classes.length);
  for (let j = 0, at = 0; j < places; j++) {
    for (let k = 0; k < found.length; k++, at++) found[k] += weights[j] * mixture[at];
  }
  const total = found.reduce((sum, weight) => sum + weight, 0);
  return found.map((weight) => (total ? weight / total : 0));
}

/** How many places share the weight: the exponential of its entropy; all if it is even, 1 if one has it, 0 if none. */
export function perplexity(weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (!total) return 0;
  let entropy = 0;
  for (const weight of weights) if (weight) entropy -= (weight / total) * Math.log(weight / total);
  return Math.exp(entropy);
}

/** Weights as multiples of 1 / places, what each would have if all were even. */
export function timesAverage(weights) {
  return weights.map((weight) => weight * weights.length);
}

export function largest(weights) {
  return weights.reduce((most, weight) => (weight > most ? weight : most), 0);
}

/**
 * What `place` does without in the answer's `taken_labels`: the `count` keys with most of its weight, of equal ones the
 * first; the `weight` that they had; and a mark for each of the `places` that they stand for.
 */
export function takenFrom(view, place) {
  const weights = softmax(energies(view, place));
  const count = Math.min(Math.max(toEven(view.position.taken * weights.length), 1), Math.floor(weights.length / 2));
  const least = weights.slice().sort()[weights.length - count];
  let ties = count - weights.reduce((sum, weight) => sum + (weight > least), 0);
  const keys = Array.from(weights.keys()).filter((j) => weights[j] > least || (weights[j] === least && ties-- > 0));
  const places = new Uint8Array(view.places);
  for (const j of keys) {
    const [above, below, left, right] = view.windows?.[j] ?? [0, 1, j, j + 1];
    for (let y = above; y < below; y++) places.fill(1, y * view.grid[1] + left, y * view.grid[1] + right);
  }
  return { count, places, weight: keys.reduce((sum, j) => sum + weights[j], 0) };
}

/** Rounded as Python does: a half to the even neighbour. */
function toEven(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** Of 24 places spread over the picture, the one that looks most at classes other than its own, above all rare ones. */
export function firstPlace(view) {
  const candidates = Array.from({ length: 24 }, (_, i) =>
    placeOf(view, (((i % 6) + 0.5) * view.width) / 6, ((Math.floor(i / 6) + 0.5) * view.height) / 4),
  );
  if (!view.position) return candidates[9];
  const surprise = candidates.map((place) => {
    const [x, y] = pixelOf(view, place);
    const differs = (share, k) => (share && k !== labelAt(view, x, y) ? share * Math.log(share / view.area[k]) : 0);
    return byClass(view, row(view, place)).map(differs).reduce((sum, part) => sum + part);
  });
  return candidates[surprise.indexOf(Math.max(...surprise))];
}

export function dot(a, i, b, j, depth) {
  let sum = 0;
  for (let d = 0; d < depth; d++) sum += a[i + d] * b[j + d];
  return sum;
}
