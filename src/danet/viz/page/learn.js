// The lesson: how the ringed place comes by its map, in seven steps of one sentence, one equation and one picture.
//
// i is the ringed place, j the key of a second one that is pointed at, or in DRANet of the smallest window around that.

import { placeOf } from "./answer.js";
import { energies, largest, perplexity, softmax, spread } from "./attention.js";
import { gateText, shareText } from "./panel.js";
import { blend, layer, lightOf, magma, opaque } from "./stage.js";
import { COLDEST, hottest, LETTERS, steps, TICK } from "./steps.js";
import { language, say, times, whole } from "./words.js";

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const LISTED = 5; // channels of each rule
const SEEN = 5e-4; // the least weight of those listed
const FAINT = 0.45; // the opacity of labels that a gate leaves as they are

/** Fills `element` with the lesson; `update` follows the state. `change` asks the page for another temperature. */
export function learn(element, view, state, change) {
  const find = (selector) => element.querySelector(selector);
  const all = (selector) => [...element.querySelectorAll(selector)];
  const write = (selector, text) => (find(selector).textContent = text);
  const photo = createImageBitmap(view.picture);
  const { position, channel, depth } = view;
  const reach = position && keyReach(view);
  let { place, x, y, temperature } = state;
  let j = position && favourite(view, place);
  let stop = position?.gates.indexOf(1);
  let chosen = 0;
  let energy, weight;

  element.innerHTML = `<header><h2>${say("learn_title")}</h2><label><input type="checkbox" role="switch" class="names">
    <span>${say("learn_names")}</span></label></header><p class="notation"></p><ol></ol>`;
  find(".names").addEventListener("change", ({ target }) => build(target.checked ? "transformer" : "paper"));
  build("paper");

  /** All steps anew, in the letters of the paper or of a transformer. */
  function build(names) {
    find("ol").innerHTML = steps(view, LETTERS[names]);
    write(".notation", find("li") ? say("learn_notation", LETTERS[names]) : say("learn_nothing"));
    if (position) buildPosition();
    if (find(".step-channels")) buildChannels();
  }

  function buildPosition() {
    for (const plate of all(".plate")) fit(plate, view, position.grid);
    for (const name of ["features", "gathered"]) {
      const colourOf = (at) => bytesOf(view[name].subarray(3 * at, 3 * at + 3));
      paintPlaces(find(`.step-${name} canvas`), position.grid, (at) => opaque(colourOf(at)));
    }
    photo.then((image) => blend(layer(view, find(".step-energy canvas")).context, image));
    for (const button of all(".marks button")) {
      button.style.setProperty("--at", (Math.log(button.value) - COLDEST) / (hottest(view) - COLDEST));
      button.addEventListener("click", () => change({ temperature: Number(button.value) }));
    }
    find(".heat").addEventListener("input", ({ target }) => {
      const near = [0, Math.log(depth) / 2].find((mark) => Math.abs(mark - target.value) <= TICK / 2);
      change({ temperature: Math.exp(near ?? target.value) });
    });
    for (const plate of all(".pointed")) {
      plate.addEventListener("pointermove", (event) => meet(keyAt(view, placeUnder(view, plate, event))));
      plate.addEventListener("pointerdown", (event) => meet(keyAt(view, placeUnder(view, plate, event))));
      plate.addEventListener("keydown", (event) => {
        if (!MOVES[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        meet(neighbour(view, j, MOVES[event.key]));
      });
    }
    for (const input of all(".stops input")) input.addEventListener("change", () => openGate(Number(input.value)));
    follow();
    heat();
    openGate(stop);
  }

  function update(now) {
    const moved = now.place !== place;
    const heated = now.temperature !== temperature;
    ({ place, x, y, temperature } = now);
    if (!position) return;
    if (moved) j = favourite(view, place);
    follow();
    if (moved || heated) heat();
    nameLabel();
  }

  /** All that follows from the ringed place alone. */
  function follow() {
    const query = queryOf(view, place);
    energy = energies(view, place);
    weight = softmax(energy);
    for (const { style } of all(".ring")) {
      Object.assign(style, { left: percentage((x + 0.5) / view.width), top: percentage((y + 0.5) / view.height) });
    }
    for (const chart of all(".bars-query")) drawBars(chart, query, furthest(query));
    write(".step-query output", `${signed(Math.min(...query))} … ${signed(Math.max(...query))}`);
    const own = rgb(view.features.subarray(3 * place, 3 * place + 3));
    for (const swatch of all(".swatch-features")) swatch.style.background = own;
    meet(j);
  }

  /** All that follows from the second place. */
  function meet(next) {
    j = next;
    const query = queryOf(view, place);
    const key = view.key.subarray(j * depth, (j + 1) * depth);
    const most = furthest(query.map((each, k) => each * reach[k]));
    drawBars(find(".bars-key"), key, furthest(reach));
    drawBars(find(".bars-product"), query.map((each, k) => each * key[k]), most);
    write(".energy-above", signed(energy[j]));
    write(".energy-weight", fine(weight[j]));
    write(".energy-times", times(weight[j] * weight.length));
    const [above, below, left, right] = cellOf(view, j);
    const [rows, columns] = view.span;
    for (const { style } of all(".spot")) {
      Object.assign(style, { left: percentage(left / columns), top: percentage(above / rows) });
      Object.assign(style, { width: percentage((right - left) / columns), height: percentage((below - above) / rows) });
    }
  }

  /** All that follows from the temperature. */
  function heat() {
    const weights = softmax(energy, temperature);
    const map = spread(view, weights);
    const shadeOf = (at) => opaque(magma(lightOf(map[at] * map.length)));
    paintPlaces(find(".step-softmax canvas"), position.grid, shadeOf);
    const told = `τ = ${temperature.toFixed(2)}`;
    write(".temperature", told);
    write(".gathered-at", told);
    const slider = find(".heat");
    if (Math.abs(slider.value - Math.log(temperature)) > TICK) slider.value = Math.log(temperature);
    slider.setAttribute("aria-valuetext", told);
    for (const button of all(".marks button")) {
      button.setAttribute("aria-pressed", Math.abs(button.value - temperature) < 1e-6);
    }
    const most = times(largest(map) * map.length);
    write(".softmax-count", say("learn_count", { shared: whole(perplexity(map)), places: whole(map.length), most }));
    find(".swatch-gathered").style.background = rgb(gather(view, weights));
  }

  /** The labels that the network would give at one of the stops of its gate. */
  function openGate(next) {
    stop = next;
    const { gate, share, gates } = position;
    const labels = labelsAt(view, stop);
    const trained = labelsAt(view, gates.indexOf(1));
    const changed = labels.reduce((count, label, at) => count + (label !== trained[at]), 0);
    const values = { gate: gateText(gates[stop] * gate), share: shareText(gates[stop] * share) };
    write(".gate-share", say("learn_gate_share", values));
    const told = gates[stop] === 1 ? "learn_gate_learned" : "learn_gate_changed";
    write(".gate-changed", say(told, { share: fine(changed / labels.length) }));
    all(".stops input").forEach((input, at) => (input.checked = at === stop));
    photo.then((image) => stop === next && paintLabels(find(".step-gate canvas"), view, image, labels, trained));
    nameLabel();
  }

  function nameLabel() {
    const label = labelsAt(view, stop)[y * view.width + x];
    write(".gate-label", say("learn_gate_label", { name: view.classes[label].name }));
  }

  function buildChannels() {
    for (const plate of all(".step-channels .plate")) fit(plate, view, channel.grid);
    all(".thumbs label").forEach((label, k) => {
      paintChannel(label.querySelector("canvas"), view, "channels", k);
      label.querySelector("input").addEventListener("change", () => choose(k));
    });
    choose(chosen);
  }

  /** One channel: before and after, the energies of its row, and what either rule makes of them. */
  function choose(k) {
    chosen = k;
    all(".thumbs input")[k].checked = true;
    paintChannel(find(".channel-before canvas"), view, "channels", k);
    paintChannel(find(".channel-after canvas"), view, "channels_after", k);
    const count = view.channel_energy.length / channel.maps.length;
    const row = view.channel_energy.subarray(k * count, (k + 1) * count);
    const ends = { lowest: Math.min(...row), highest: Math.max(...row) };
    drawTicks(find(".ticks"), row, ends);
    for (const [end, value] of Object.entries(ends)) {
      write(`.${end}`, say(`learn_channels_${end}`, { energy: figures(value, 3) }));
    }
    const own = count === channel.total ? channel.maps[k].index : null;
    listChannels(find(".rule-official ol"), softmax(row.map((each) => -each)), own);
    listChannels(find(".rule-paper ol"), softmax(row), own);
  }

  return { update };
}

function queryOf({ query, depth }, place) {
  return query.subarray(place * depth, (place + 1) * depth);
}

/** The place of a plate under the pointer. */
function placeUnder(view, plate, { clientX, clientY }) {
  const box = plate.getBoundingClientRect();
  const pixel = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  const x = pixel((clientX - box.left) / box.width, view.width);
  return placeOf(view, x, pixel((clientY - box.top) / box.height, view.height));
}

/** The key that stands for a place: its own, or of the windows that it lies in the smallest one's. */
function keyAt({ windows, grid: [, columns] }, place) {
  if (!windows) return place;
  const [y, x] = [Math.floor(place / columns), place % columns];
  const area = (j) => (windows[j][1] - windows[j][0]) * (windows[j][3] - windows[j][2]);
  const around = ([above, below, left, right]) => above <= y && y < below && left <= x && x < right;
  const keys = [...windows.keys()].filter((j) => around(windows[j]));
  return keys.reduce((one, other) => (area(other) < area(one) ? other : one));
}

/** First row, end of rows, first column and end of columns of the places that a key stands for. */
function cellOf({ windows, grid: [, columns] }, j) {
  const [y, x] = [Math.floor(j / columns), j % columns];
  return windows ? windows[j] : [y, y + 1, x, x + 1];
}

/** The key to begin with: the one that a place looks at most, other than its own. */
function favourite(view, place) {
  const energy = energies(view, place);
  if (!view.windows && energy.length > 1) energy[place] = -Infinity;
  return energy.indexOf(energy.reduce((most, each) => Math.max(most, each)));
}

/** The next other key on the way from the middle of what the j-th stands for, or the j-th where there is none. */
function neighbour(view, j, [down, across]) {
  const [rows, columns] = view.grid;
  const [above, below, left, right] = cellOf(view, j);
  let y = ((above + below - 1) >> 1) + down;
  let x = ((left + right - 1) >> 1) + across;
  for (; 0 <= y && y < rows && 0 <= x && x < columns; y += down, x += across) {
    const key = keyAt(view, y * columns + x);
    if (key !== j) return key;
  }
  return j;
}

/** How far from 0 any key goes, number by number. */
function keyReach({ key, depth }) {
  const found = new Float32Array(depth);
  key.forEach((value, at) => (found[at % depth] = Math.max(found[at % depth], Math.abs(value))));
  return found;
}

/** What these weights of all keys gather, E_i, in the units of `value`: red, green and blue. */
function gather({ value }, weights) {
  const colour = [0, 0, 0];
  weights.forEach((weight, j) => colour.forEach((_, c) => (colour[c] += weight * value[3 * j + c])));
  return colour;
}

function labelsAt({ gate_labels, width, height }, stop) {
  return gate_labels.subarray(stop * width * height, (stop + 1) * width * height);
}

/** A plate has the picture's shape; a canvas of places is as much larger as their grid reaches beyond the picture. */
function fit(plate, { width, height, span }, [rows, columns]) {
  plate.style.aspectRatio = `${width} / ${height}`;
  if (!plate.classList.contains("of-places")) return;
  const { style } = plate.querySelector("canvas");
  Object.assign(style, { width: percentage(columns / span[1]), height: percentage(rows / span[0]) });
}

/** A pixel for each place, in the colour that `shadeOf` gives, as `opaque` has it. */
function paintPlaces(canvas, [height, width], shadeOf) {
  const { pixels, put } = layer({ width, height }, canvas);
  for (let place = 0; place < pixels.length; place++) pixels[place] = shadeOf(place);
  put();
}

function paintChannel(canvas, { channel: { grid }, ...view }, name, k) {
  const values = view[name].subarray(k * grid[0] * grid[1]);
  paintPlaces(canvas, grid, (place) => opaque(Array(3).fill(values[place])));
}

/** Labels over the photograph: in full colour where they differ from `trained`. */
function paintLabels(canvas, view, image, labels, trained) {
  const { context } = layer(view, canvas);
  const over = layer(view);
  const colours = view.classes.map(({ colour }) => colour.match(/\w\w/g).map((part) => parseInt(part, 16)));
  const [full, faint] = [1, FAINT].map((alpha) => colours.map((colour) => opaque(colour, alpha)));
  labels.forEach((label, at) => (over.pixels[at] = (label === trained[at] ? faint : full)[label]));
  over.put();
  blend(context, image);
  blend(context, over.canvas);
}

/** Numbers as bars up and down from a line. */
function drawBars(chart, values, most) {
  const bar = (value, k) => `M${k + 0.5} 0V${(-value / most).toFixed(4)}`;
  chart.lastElementChild.setAttribute("d", Array.from(values, bar).join(""));
}

/** Each value as a stroke, from the lowest at the left to the highest at the right. */
function drawTicks(chart, values, { lowest, highest }) {
  const stroke = (value) => `M${((1000 * (value - lowest)) / (highest - lowest || 1)).toFixed(2)} 0V30`;
  chart.lastElementChild.setAttribute("d", Array.from(values, stroke).join(""));
}

/** The channels that have most of these weights; `own` is the one that they are of, null among compact channels. */
function listChannels(list, weights, own) {
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, LISTED);
  const lines = order.filter((index, k) => !k || weights[index] >= SEEN).map((index) => {
    const line = document.createElement("li");
    line.innerHTML = "<span></span><i></i><b></b>";
    const kind = own === null ? "_compact" : index === own ? "_own" : "";
    line.children[0].textContent = say(`learn_channel${kind}`, { index });
    line.children[1].style.setProperty("--share", weights[index]);
    line.children[2].textContent = fine(weights[index]);
    return line;
  });
  list.replaceChildren(...lines);
}

function furthest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
}

function percentage(share) {
  return `${100 * share}%`;
}

function bytesOf(colour) {
  return Array.from(colour, (part) => Math.round(255 * Math.min(Math.max(part, 0), 1)));
}

function rgb(colour) {
  return `rgb(${bytesOf(colour)})`;
}

function signed(value) {
  return `${value < 0 ? "−" : "+"}\u202f${Math.abs(value).toFixed(2)}`;
}

/** A share in two figures. */
function fine(share) {
  return `${share && share < 5e-5 ? "< 0.01" : figures(100 * share, 2)}\u202f%`;
}

function figures(value, maximumSignificantDigits) {
  return value.toLocaleString(language, { maximumSignificantDigits });
}
