// What a place of the picture looks at, and what looks at it, from the queries and keys of one image.
//
// First functions without a page: `decode` makes a view of what danet.viz.attention_page writes, `row` and `column`
// are the attention of a place, the rest follows from their weights. Then `mount`, which puts a view into an element.

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const SPOKEN_AFTER = 400; // milliseconds of rest, so that a screen reader is told of the place where a drag ends
const SHADES = 1024;
const HAIR = 1e-9; // by which a quotient that should be whole may be off

/** A view of its JSON form: typed arrays for query, key, log-sum-exp and labels, and what all places have in common. */
export function decode(packed) {
  const view = { ...packed, query: numbers(packed.query), key: numbers(packed.key) };
  view.places = view.grid[0] * view.grid[1];
  view.depth = packed.query.low.length;
  view.logsumexp = new Float32Array(bytes(packed.logsumexp).buffer);
  view.labels = runs(bytes(packed.labels), view.width * view.height);
  view.area = shares(view.labels, view.classes.length);
  view.mixture = mixture(view);
  view.shades = shades(packed.heat);
  return view;
}

/** The place of the grid, row by row, that covers the pixel (x, y): the picture takes up `span` rows and columns. */
export function placeOf({ grid: [, columns], span, width, height }, x, y) {
  const covering = (pixel, size, spanned) => Math.floor((pixel * spanned) / size + HAIR);
  return covering(y, height, span[0]) * columns + covering(x, width, span[1]);
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

/** What `place` gathers from, which sums to 1: its softmax over all keys, each spread over the places it stands for. */
export function row({ query, key, places, depth, windows, grid: [, columns] }, place) {
  const weights = new Float32Array(key.length / depth);
  const own = query.subarray(place * depth, (place + 1) * depth);
  let top = -Infinity;
  for (let j = 0; j < weights.length; j++) {
    weights[j] = dot(own, 0, key, j * depth, depth);
    top = Math.max(top, weights[j]);
  }
  let total = 0;
  for (let j = 0; j < weights.length; j++) total += weights[j] = Math.exp(weights[j] - top);
  for (let j = 0; j < weights.length; j++) weights[j] /= total;
  if (!windows) return weights;
  const spread = new Float32Array(places);
  windows.forEach(([above, below, left, right], j) => {
    const each = weights[j] / ((below - above) * (right - left));
    for (let y = above; y < below; y++) for (let x = left; x < right; x++) spread[y * columns + x] += each;
  });
  return spread;
}

/** What gathers from `place`: the weight that each place gives to it. */
export function column(view, place) {
  const { query, key, logsumexp, places, depth } = view;
  const weights = new Float32Array(places);
  for (const [j, share] of keysOf(view, place)) {
    const own = key.subarray(j * depth, (j + 1) * depth);
    for (let i = 0; i < places; i++) weights[i] += share * Math.exp(dot(query, i * depth, own, 0, depth) - logsumexp[i]);
  }
  return weights;
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

/** Of 24 places spread over the picture, the one that looks most at classes other than its own, above all rare ones. */
export function firstPlace(view) {
  const candidates = Array.from({ length: 24 }, (_, i) =>
    placeOf(view, (((i % 6) + 0.5) * view.width) / 6, ((Math.floor(i / 6) + 0.5) * view.height) / 4),
  );
  const surprise = candidates.map((place) => {
    const [x, y] = pixelOf(view, place);
    const differs = (share, k) => (share && k !== labelAt(view, x, y) ? share * Math.log(share / view.area[k]) : 0);
    return byClass(view, row(view, place)).map(differs).reduce((sum, part) => sum + part);
  });
  return candidates[surprise.indexOf(Math.max(...surprise))];
}

/** Light for each pixel: weights relative to their maximum, bilinear, in the shades of the ramp. */
export function draw({ grid: [rows, columns], span, width, height, shades }, weights, pixels) {
  const factor = (shades.length - 1) / Math.max(largest(weights), 1e-38);
  const across = between(width, span[1], columns);
  const down = between(height, span[0], rows);
  const line = new Float32Array(columns + 1);
  for (let y = 0, at = 0; y < height; y++) {
    const above = down.first[y] * columns;
    const below = Math.min(down.first[y] + 1, rows - 1) * columns;
    for (let c = 0; c < columns; c++) {
      line[c] = factor * (weights[above + c] + down.along[y] * (weights[below + c] - weights[above + c]));
    }
    line[columns] = line[columns - 1];
    for (let x = 0; x < width; x++, at++) {
      const left = across.first[x];
      pixels[at] = shades[(line[left] + across.along[x] * (line[left + 1] - line[left]) + 0.5) | 0];
    }
  }
}

/** One sentence for those who do not see the map. At high energies a place's weights can all be too small to count. */
export function sentence(view, { x, y, from }, weights) {
  const own = view.classes[labelAt(view, x, y)].name;
  if (!largest(weights)) return `${own} is looked at by nothing.`;
  const parts = Array.from(byClass(view, weights), (share, k) => [share, view.classes[k].name]);
  parts.sort((one, other) => other[0] - one[0]);
  const shown = parts.slice(0, 3).filter(([share]) => share >= 0.005);
  const list = shown.map(([share, name]) => `${percent(share)} ${name}`).join(", ");
  return `${own} ${from ? "looks at" : "is looked at by"} ${list}; ${count(view, weights)}.`;
}

function dot(a, i, b, j, depth) {
  let sum = 0;
  for (let d = 0; d < depth; d++) sum += a[i + d] * b[j + d];
  return sum;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Numbers of 20 bits each, the high ones first: of the three bytes that hold one, four bits are a neighbour's. */
function numbers({ low, step, codes }) {
  const packed = bytes(codes);
  return Float32Array.from({ length: Math.floor(packed.length / 2.5) }, (_, i) => {
    const at = Math.floor(2.5 * i);
    const three = (packed[at] << 16) | (packed[at + 1] << 8) | packed[at + 2];
    return low[i % low.length] + step[i % low.length] * ((i % 2 ? three : three >> 4) & 0xfffff);
  });
}

/** Labels from pairs of class and run length less one. */
function runs(pairs, size) {
  const labels = new Uint8Array(size);
  for (let i = 0, at = 0; i < pairs.length; i += 2) labels.fill(pairs[i], at, (at += pairs[i + 1] + 1));
  return labels;
}

function shares(labels, classes) {
  const found = new Float64Array(classes);
  for (const label of labels) found[label] += 1 / labels.length;
  return found;
}

/** Of each place, the share of its pixels in each class; a place so cut off that it has none takes the nearest. */
function mixture(view) {
  const found = new Float32Array(view.places * view.classes.length);
  const pixels = new Uint32Array(view.places);
  const each = (visit) => {
    for (let y = 0, at = 0; y < view.height; y++) {
      for (let x = 0; x < view.width; x++, at++) visit(placeOf(view, x, y), view.labels[at]);
    }
  };
  each((place) => pixels[place]++);
  each((place, label) => (found[place * view.classes.length + label] += 1 / pixels[place]));
  pixels.forEach((count, place) => {
    if (!count) found[place * view.classes.length + labelAt(view, ...pixelOf(view, place))] = 1;
  });
  return found;
}

/** A colour as a canvas keeps its pixels. */
function opaque([red, green, blue]) {
  return 0xff000000 | (blue << 16) | (green << 8) | red;
}

/** The ramp in even steps. */
function shades(heat) {
  return Uint32Array.from({ length: SHADES }, (_, i) => {
    const at = (i / (SHADES - 1)) * (heat.length - 1);
    const low = Math.min(Math.floor(at), heat.length - 2);
    return opaque(heat[low].map((value, channel) => Math.round(value + (at - low) * (heat[low + 1][channel] - value))));
  });
}

/**
 * For each of `size` pixels, which take up `spanned` of `count` places, the first of the two places between whose
 * middles it lies, and how far on.
 */
function between(size, spanned, count) {
  const place = (_, i) => Math.min(Math.max(((i + 0.5) * spanned) / size - 0.5, 0), count - 1);
  const at = Float32Array.from({ length: size }, place);
  const first = Int32Array.from(at, Math.floor);
  return { first, along: at.map((value, i) => value - first[i]) };
}

function largest(weights) {
  return weights.reduce((most, weight) => (weight > most ? weight : most), 0);
}

function labelAt({ labels, width }, x, y) {
  return labels[y * width + x];
}

function percent(share) {
  return share > 0 && share < 0.005 ? "< 1\u202f%" : `${Math.round(100 * share)}\u202f%`;
}

function count({ places }, weights) {
  const shared = Math.round(perplexity(weights));
  return `${shared ? "≈ " : ""}${shared.toLocaleString("en")} of ${places.toLocaleString("en")} places`;
}

const MARKUP = `
<div class="stage">
  <canvas tabindex="0" role="application" aria-roledescription="attention map"></canvas>
  <i class="ring"></i>
</div>
<div class="side">
  <p class="point"><i class="swatch"></i><span></span></p>
  <div class="direction" role="radiogroup" aria-label="Direction">
    <label><input type="radio" value="from" checked><span>looks at</span></label>
    <label><input type="radio" value="to"><span>is looked at by</span></label>
  </div>
  <ul class="bars"></ul>
  <p class="key">the class’s share of the picture</p>
  <p class="places"><b></b> share the light</p>
  <div class="ramp"></div>
  <p class="scale"><span>0</span><span class="top"></span></p>
  <label class="overlay"><input type="checkbox"><span>show the predicted classes</span></label>
  <ul class="notes"></ul>
</div>
<p class="spoken" aria-live="polite"></p>`;
let mounted = 0;

/** Puts `view` into `element`, whose img is its picture, with a place chosen; draws once a frame at most. */
export async function mount(element, view) {
  const find = (selector) => element.querySelector(selector);
  const picture = find("img");
  await picture.decode();
  const dimmed = dim(picture, view);
  const classes = classColours(view);
  const light = canvasOf(view);
  element.insertAdjacentHTML("beforeend", MARKUP);
  element.style.setProperty("--ratio", view.width / view.height);
  picture.remove();
  const canvas = find("canvas");
  const context = canvasOf(view, canvas).context;
  canvas.setAttribute("aria-label", `${picture.alt}: what a place looks at. The arrow keys move the place.`);
  const bars = fillSide(find, view);
  const first = firstPlace(view);
  const [x, y] = pixelOf(view, first);
  const state = { place: first, x, y, from: true, classes: false };
  let frame = null;
  let rest = null;

  function show() {
    frame = null;
    const weights = (state.from ? row : column)(view, state.place);
    draw(view, weights, light.pixels);
    light.put();
    context.drawImage(dimmed, 0, 0);
    if (state.classes) blend(context, classes, "source-over", 0.5);
    blend(context, light.canvas, "screen");
    find(".ring").style.left = `${(100 * (state.x + 0.5)) / view.width}%`;
    find(".ring").style.top = `${(100 * (state.y + 0.5)) / view.height}%`;
    const own = view.classes[labelAt(view, state.x, state.y)];
    find(".point .swatch").style.background = own.colour;
    find(".point span").textContent = own.name;
    byClass(view, weights).forEach((share, k) => bars[k]?.(share));
    find(".places b").textContent = count(view, weights);
    const top = view.places * largest(weights);
    const told = top && top < 0.01 ? "< 0.01" : top.toLocaleString("en", { maximumSignificantDigits: 2 });
    find(".top").textContent = `${told} × average`;
    clearTimeout(rest);
    rest = setTimeout(() => (find(".spoken").textContent = sentence(view, state, weights)), SPOKEN_AFTER);
  }

  function change(next) {
    Object.assign(state, next);
    frame ??= requestAnimationFrame(show);
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const within = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
    const x = within((event.clientX - box.left) / box.width, view.width);
    const y = within((event.clientY - box.top) / box.height, view.height);
    change({ place: placeOf(view, x, y), x, y });
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    point(event);
  });
  canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && point(event));
  canvas.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [rows, columns] = view.grid;
    const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);
    const down = clamp(Math.floor(state.place / columns) + step[0], rows);
    const place = down * columns + clamp((state.place % columns) + step[1], columns);
    const [x, y] = pixelOf(view, place);
    change({ place, x, y });
  });
  find(".direction").addEventListener("change", (event) => change({ from: event.target.value === "from" }));
  find(".overlay").addEventListener("change", (event) => change({ classes: event.target.checked }));
  show();
  element.danet = { view, state, row: (place) => row(view, place), column: (place) => column(view, place) };
}

/** A canvas at the picture's size, with pixels to fill and a way to put them onto it. */
function canvasOf({ width, height }, canvas = document.createElement("canvas")) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  return { canvas, context, pixels: new Uint32Array(image.data.buffer), put: () => context.putImageData(image, 0, 0) };
}

/** The picture in grey of half its brightness. By blending alone: some browsers let no script read a canvas. */
function dim(picture, view) {
  const { canvas, context } = canvasOf(view);
  context.drawImage(picture, 0, 0);
  context.fillStyle = "#808080";
  for (const operation of ["saturation", "multiply"]) {
    context.globalCompositeOperation = operation;
    context.fillRect(0, 0, view.width, view.height);
  }
  return canvas;
}

function classColours(view) {
  const { canvas, pixels, put } = canvasOf(view);
  const colours = view.classes.map(({ colour }) => opaque(colour.match(/\w\w/g).map((part) => parseInt(part, 16))));
  view.labels.forEach((label, at) => (pixels[at] = colours[label]));
  put();
  return canvas;
}

function blend(context, source, operation, alpha = 1) {
  Object.assign(context, { globalCompositeOperation: operation, globalAlpha: alpha });
  context.drawImage(source, 0, 0);
  Object.assign(context, { globalCompositeOperation: "source-over", globalAlpha: 1 });
}

/** What does not change with the place; returns, for each class in the picture, what sets its bar. */
function fillSide(find, view) {
  mounted++;
  for (const input of find(".direction").querySelectorAll("input")) input.name = `direction-${mounted}`;
  find(".ramp").style.background = `linear-gradient(90deg, ${view.heat.map((colour) => `rgb(${colour})`)})`;
  for (const note of view.notes) add(find(".notes"), "li", "").textContent = note;
  const bars = [];
  const present = [...view.area.keys()].filter((k) => view.area[k]).sort((a, b) => view.area[b] - view.area[a]);
  for (const k of present) {
    const line = add(find(".bars"), "li", "");
    add(line, "i", "swatch").style.background = view.classes[k].colour;
    add(line, "span", "name").textContent = view.classes[k].name;
    const bar = add(line, "span", "bar");
    const figure = add(line, "span", "figure");
    bar.style.setProperty("--area", view.area[k]);
    bars[k] = (share) => {
      bar.style.setProperty("--share", share);
      figure.textContent = percent(share);
    };
  }
  return bars;
}

function add(parent, tag, name) {
  const child = document.createElement(tag);
  child.className = name;
  return parent.appendChild(child);
}

for (const element of document.querySelectorAll(".attend")) {
  mount(element, decode(JSON.parse(element.querySelector("script").textContent)));
}
