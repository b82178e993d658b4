// The lesson: how the ringed place comes by its map, in seven steps of one sentence, one equation and one picture.
//
// Letters are the paper's (section 3), or Q, K, V by a switch; i is the ringed place, j a second one to be pointed at.

import { placeOf } from "./answer.js";
import { energies, largest, perplexity, softmax, spread } from "./attention.js";
import { lightOf, magma } from "./stage.js";
import { percent, say, times, whole } from "./words.js";

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const LETTERS = { paper: { query: "B", key: "C′", value: "D" }, transformer: { query: "Q", key: "K", value: "V" } };
const MULTIPLES = { 0: "0", 0.5: "½ α", 1: "α" };
const LISTED = 5; // channels of each rule
const SEEN = 5e-4; // the least weight of those listed
const COLDEST = -1.4; // the least temperature, as a logarithm
const TICK = 0.05; // of the temperature's slider, in logarithms

/** Fills `element` with the lesson; `update` follows the state. `change` asks the page for another temperature. */
export function learn(element, view, state, change) {
  const lesson = { letters: LETTERS.paper, stop: view.position?.gates.indexOf(1), channel: 0 };
  const find = (selector) => element.querySelector(selector);
  const all = (selector) => [...element.querySelectorAll(selector)];
  const write = (selector, text) => (find(selector).textContent = text);
  const photo = createImageBitmap(view.picture);
  const widest = view.position && keyExtremes(view);
  let now = state;

  element.innerHTML = `<header><h2>${say("learn_title")}</h2><label><input type="checkbox" role="switch" class="names">
    <span>${say("learn_names")}</span></label></header><p class="notation"></p><ol></ol>`;
  find(".names").addEventListener("change", ({ target }) => {
    lesson.letters = LETTERS[target.checked ? "transformer" : "paper"];
    build();
  });
  build();

  /** All steps anew, in the letters chosen. */
  function build() {
    find("ol").innerHTML = steps(view, lesson.letters);
    write(".notation", say("learn_notation", lesson.letters));
    lesson.place = lesson.temperature = null;
    if (view.position) buildPosition();
    if (view.channel?.maps.length) buildChannels();
    if (!find("li")) write(".notation", say("learn_nothing"));
    update(now);
  }

  function buildPosition() {
    for (const plate of all(".plate")) fit(plate, view, view.position);
    for (const name of ["features", "gathered"]) {
      const colourOf = (place) => bytesOf(view[name].subarray(3 * place, 3 * place + 3));
      paintPlaces(find(`.step-${name} canvas`), view.grid, colourOf);
    }
    photo.then((image) => paintPhoto(find(".step-energy canvas"), view, image));
    for (const button of all(".marks button")) {
      button.style.setProperty("--at", along(view, Math.log(button.value)));
      button.addEventListener("click", () => change({ temperature: Number(button.value) }));
    }
    find(".heat").addEventListener("input", ({ target }) => {
      const marks = [0, Math.log(view.depth) / 2];
      const chosen = Number(target.value);
      change({ temperature: Math.exp(marks.find((mark) => Math.abs(mark - chosen) <= TICK / 2) ?? chosen) });
    });
    for (const plate of all(".pointed")) {
      const point = ({ clientX, clientY }) => {
        const box = plate.getBoundingClientRect();
        const pixel = (at, size) => Math.min(Math.max(Math.floor(at * size), 0), size - 1);
        const x = pixel((clientX - box.left) / box.width, view.width);
        meet(keyAt(view, placeOf(view, x, pixel((clientY - box.top) / box.height, view.height))));
      };
      plate.addEventListener("pointermove", point);
      plate.addEventListener("pointerdown", point);
      plate.addEventListener("keydown", (event) => {
        if (!MOVES[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation(); // the ringed place stays
        meet(neighbour(view, lesson.key, MOVES[event.key]));
      });
    }
    for (const input of all(".stops input")) input.addEventListener("change", () => openGate(Number(input.value)));
    openGate(lesson.stop);
  }

  function update(next) {
    now = next;
    const { place, x, y, temperature } = now;
    if (!view.position) return;
    for (const ring of all(".ring")) {
      ring.style.left = percentage((x + 0.5) / view.width);
      ring.style.top = percentage((y + 0.5) / view.height);
    }
    const moved = place !== lesson.place;
    if (moved) follow(place);
    if (moved || temperature !== lesson.temperature) heat(temperature);
    nameLabel();
  }

  /** All that follows from the ringed place alone. */
  function follow(place) {
    const { depth, features } = view;
    Object.assign(lesson, { place, query: view.query.subarray(place * depth, (place + 1) * depth) });
    lesson.energy = energies(view, place);
    lesson.weight = softmax(lesson.energy);
    for (const chart of all(".bars-query")) drawBars(chart, lesson.query, size(lesson.query));
    write(".step-query output", `${signed(Math.min(...lesson.query))} … ${signed(Math.max(...lesson.query))}`);
    for (const swatch of all(".swatch-features")) swatch.style.background = rgb(features.subarray(3 * place, 3 * place + 3));
    meet(favourite(view, place, lesson.weight));
  }

  /** All that follows from the second place, or window of places, whose key is the j-th. */
  function meet(j) {
    const { query } = lesson;
    const key = view.key.subarray(j * view.depth, (j + 1) * view.depth);
    lesson.key = j;
    drawBars(find(".bars-key"), key, size(widest));
    drawBars(find(".bars-product"), query.map((each, k) => each * key[k]), size(query.map((each, k) => each * widest[k])));
    write(".energy-above", signed(lesson.energy[j]));
    write(".energy-weight", fine(lesson.weight[j]));
    write(".energy-times", times(lesson.weight[j] * lesson.weight.length));
    const [above, below, left, right] = cellOf(view, j);
    const [rows, columns] = view.span;
    for (const { style } of all(".spot")) {
      Object.assign(style, { left: percentage(left / columns), top: percentage(above / rows) });
      Object.assign(style, { width: percentage((right - left) / columns), height: percentage((below - above) / rows) });
    }
  }

  /** All that follows from the temperature. */
  function heat(temperature) {
    lesson.temperature = temperature;
    const weights = softmax(lesson.energy, temperature);
    const map = spread(view, weights);
    paintPlaces(find(".step-softmax canvas"), view.grid, (place) => magma(lightOf(map[place] * map.length)));
    const told = `τ = ${temperature.toFixed(2)}`;
    write(".temperature", told);
    const slider = find(".heat");
    if (Math.abs(slider.value - Math.log(temperature)) > TICK) slider.value = Math.log(temperature);
    slider.setAttribute("aria-valuetext", told);
    for (const button of all(".marks button")) {
      button.setAttribute("aria-pressed", Math.abs(button.value - temperature) < 1e-6);
    }
    const places = { shared: whole(perplexity(map)), places: whole(map.length), most: times(largest(map) * map.length) };
    write(".softmax-count", say("learn_count", places));
    find(".swatch-gathered").style.background = rgb(gather(view, weights));
    write(".gathered-at", told);
  }

  /** The labels that the network would give at one of the five stops of its gate. */
  function openGate(stop) {
    lesson.stop = stop;
    const { gate, share, gates } = view.position;
    const labels = stopLabels(view, stop);
    const trained = stopLabels(view, gates.indexOf(1));
    const changed = labels.reduce((count, label, at) => count + (label !== trained[at]), 0);
    const values = { gate: (gates[stop] * gate).toPrecision(3), share: percent(Math.abs(gates[stop]) * share) };
    write(".gate-share", say("learn_gate_share", values));
    const told = gates[stop] === 1 ? "learn_gate_learned" : "learn_gate_changed";
    write(".gate-changed", say(told, { share: fine(changed / labels.length) }));
    for (const input of all(".stops input")) input.checked = Number(input.value) === stop;
    photo.then((image) => lesson.stop === stop && paintPhoto(find(".step-gate canvas"), view, image, labels, trained));
    nameLabel();
  }

  function nameLabel() {
    const label = stopLabels(view, lesson.stop)[now.y * view.width + now.x];
    write(".gate-label", say("learn_gate_label", { name: view.classes[label].name }));
  }

  function buildChannels() {
    const { maps, grid } = view.channel;
    const paintChannel = (canvas, name, k) => {
      const values = view[name].subarray(k * grid[0] * grid[1]);
      paintPlaces(canvas, grid, (place) => Array(3).fill(values[place]));
    };
    for (const plate of all(".step-channels .plate")) fit(plate, view, view.channel);
    all(".thumbs label").forEach((label, k) => {
      paintChannel(label.querySelector("canvas"), "channels", k);
      label.querySelector("input").addEventListener("change", () => choose(k));
    });
    choose(lesson.channel);

    function choose(k) {
      lesson.channel = k;
      all(".thumbs input")[k].checked = true;
      paintChannel(find(".channel-before canvas"), "channels", k);
      paintChannel(find(".channel-after canvas"), "channels_after", k);
      const count = view.channel_energy.length / maps.length;
      const energy = view.channel_energy.subarray(k * count, (k + 1) * count);
      drawTicks(find(".ticks"), energy);
      for (const [end, value] of Object.entries({ lowest: Math.min(...energy), highest: Math.max(...energy) })) {
        write(`.${end}`, say(`learn_channels_${end}`, { energy: whole(value) }));
      }
      const weights = { official: softmax(energy.map((each) => -each)), paper: softmax(energy) };
      for (const [rule, each] of Object.entries(weights)) list(find(`.rule-${rule} ol`), each, maps[k].index);
    }
  }

  /** The channels that have most of these weights. */
  function list(place, weights, own) {
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).filter((j, k) => !k || weights[j] >= SEEN);
    place.replaceChildren(
      ...order.slice(0, LISTED).map((index) => {
        const line = document.createElement("li");
        line.innerHTML = `<span></span><i></i><b></b>`;
        const [name, bar, figure] = line.children;
        const kind = weights.length < view.channel.total ? "_compact" : index === own ? "_own" : "";
        name.textContent = say(`learn_channel${kind}`, { index });
        bar.style.setProperty("--share", weights[index]);
        figure.textContent = fine(weights[index]);
        return line;
      }),
    );
  }

  return { update };
}

/** The key that stands for a place: its own, or of the windows that it lies in the smallest. */
export function keyAt({ windows, grid: [, columns] }, place) {
  if (!windows) return place;
  const [y, x] = [Math.floor(place / columns), place % columns];
  const area = (j) => (windows[j][1] - windows[j][0]) * (windows[j][3] - windows[j][2]);
  const around = ([above, below, left, right]) => above <= y && y < below && left <= x && x < right;
  return [...windows.keys()].filter((j) => around(windows[j])).reduce((one, other) => (area(other) < area(one) ? other : one));
}

/** What these weights of all keys gather, E_i, in the units of `value`: red, green and blue. */
export function gather({ value }, weights) {
  const sum = [0, 0, 0];
  weights.forEach((weight, j) => sum.forEach((_, c) => (sum[c] += weight * value[3 * j + c])));
  return sum;
}

/** First row, end of rows, first column and end of columns of the places that a key stands for. */
function cellOf({ windows, grid: [, columns] }, j) {
  const [y, x] = [Math.floor(j / columns), j % columns];
  return windows ? windows[j] : [y, y + 1, x, x + 1];
}

/** The key to begin with: what the place looks at most, other than itself. */
function favourite({ windows }, place, weights) {
  return weights.reduce((best, weight, j) => (weight > weights[best] && (windows || j !== place) ? j : best), !windows && place === 0 ? 1 % weights.length : 0);
}

/** The key of the place beside the middle of what the j-th key stands for; of windows, the first another way on. */
function neighbour(view, j, [down, across]) {
  const [rows, columns] = view.grid;
  const [above, below, left, right] = cellOf(view, j);
  let [y, x] = [(above + below - 1) >> 1, (left + right - 1) >> 1];
  while (0 <= y + down && y + down < rows && 0 <= x + across && x + across < columns) {
    [y, x] = [y + down, x + across];
    const key = keyAt(view, y * columns + x);
    if (key !== j) return key;
  }
  return j;
}

/** The largest distance from 0 of all keys, number by number. */
function keyExtremes({ key, depth }) {
  const found = new Float32Array(depth);
  key.forEach((value, at) => (found[at % depth] = Math.max(found[at % depth], Math.abs(value))));
  return found;
}

function stopLabels({ gate_labels, width, height }, stop) {
  return gate_labels.subarray(stop * width * height, (stop + 1) * width * height);
}

function size(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
}

// Equations; letters have the colours of what they stand for.

function letter(kind, name, index = "") {
  return `<var class="of-${kind}">${name}${index && `<sub>${index}</sub>`}</var>`;
}

function sum(below, term, above = "") {
  return `<span class="sum"><i>${above}</i>∑<i>${below}</i></span>${term}`;
}

function equations({ query, key, value }, { channel, channel_energy }) {
  const features = letter("features", "A", "i");
  const power = (index) => `exp(${letter("weight", "e", index)}/<var>τ</var>)`;
  const keys = channel && channel_energy.length < channel.maps.length * channel.total ? "K" : "A"; // compact ones are not A
  const energy = letter("weight", "e", "ab");
  const rule = (inner) => `${letter("weight", "X", "ab")} = softmax<sub>b</sub>(${inner})`;
  const weighted = letter("weight", "S", "ij") + letter("value", value, "j");
  const products = letter("query", query, "ik") + letter("key", key, "jk");
  const places = letter("features", "A", "an") + letter("features", keys, "bn");
  return {
    features: `${features} ∈ ℝ<sup>C</sup>${channel ? `, <var>C</var> = ${channel.total}` : ""}`,
    query: `${letter("query", query, "i")} = <var>W<sub>${query}</sub></var>${features} + <var>b<sub>${query}</sub></var>`,
    energy: `${letter("weight", "e", "ij")} = ${letter("query", query, "i")} · ${letter("key", key, "j")} = ${sum("k", products)}`,
    softmax: `${letter("weight", "S", "ij")} = <span class="fraction"><span>${power("ij")}</span><i>/</i>
      <span>∑<sub>l</sub> ${power("il")}</span></span>`,
    gathered: `${letter("gathered", "E", "i")} = ${sum("j", weighted)}`,
    gate: `${features} + <var>α</var>${letter("gathered", "E", "i")}`,
    channels: `${energy} = ${sum("n", places)}`,
    official: rule(`max<sub>c</sub> ${letter("weight", "e", "ac")} − ${energy}`),
    paper: rule(energy),
  };
}

/** An equation in a line of text, for those who hear it. */
function spoken(markup) {
  return markup.replace(/<su[bp]>/g, "_").replace(/<[^>]+>/g, "").replace(/\s+/g, " ");
}

/** The steps that this view has, as markup; all that is put in comes from this file or words.js. */
function steps(view, letters) {
  const { position, channel, depth } = view;
  const maths = equations(letters, view);
  const math = (name) => `<p class="equation" role="math" aria-label="${spoken(maths[name])}">${maths[name]}</p>`;
  const plate = (kinds, more = "", attributes = "") => `<div class="plate ${kinds}" ${attributes}><canvas></canvas>${more}</div>`;
  const asked = `tabindex="0" role="application" aria-label="${say("learn_point")}"`;
  const ring = `<i class="ring"></i>`;
  const both = `<i class="spot"></i>${ring}`;
  const chart = (kind, of) => `<svg class="chart bars-${kind}" viewBox="0 -1 ${depth} 2" preserveAspectRatio="none"
    aria-hidden="true"><path class="axis" d="M0 0H${depth}"/><path class="of-${of}"/></svg>`;
  const legend = (name, index, kind) => `<span class="legend"><i class="swatch-${kind}"></i>${letter(kind, name, index)}</span>`;
  const values = { ...letters, depth, rows: view.grid[0], columns: view.grid[1], keys: position && view.key.length / depth };
  const root = depth && `√${depth}`;
  const mark = (value, name, label) => `<button type="button" value="${value}"><b>${name}</b>${say(label)}</button>`;
  const stop = (multiple, at) =>
    `<label><input type="radio" name="stop" value="${at}"><span>${MULTIPLES[multiple] ?? `${multiple} α`}</span></label>`;
  const thumb = ({ index }) => `<label><input type="radio" name="channel"><canvas></canvas><span>${index}</span></label>`;
  const pictures = {
    features: () => plate("of-places pointed", both) + `<p class="caption">${legend("A", "i", "features")}${say("learn_features_caption")}</p>`,
    query: () => chart("query", "query") + `<p class="caption">${letter("query", letters.query, "i")} <output></output></p>`,
    energy: () => plate("pointed", both, asked) + `<div class="charts">${letter("query", letters.query, "i")}${chart("query", "query")}
      ${letter("key", letters.key, "j")}${chart("key", "key")}<span>×</span>${chart("product", "weight")}</div>
      <p class="result" aria-live="polite">${letter("weight", "e", "ij")} = ${say("learn_energy_mean")} <b class="energy-above"></b>,
      ${letter("weight", "S", "ij")} = <b class="energy-weight"></b> (<span class="energy-times"></span>)</p>
      <p class="caption">${say("learn_energy_note", values)}</p>`,
    softmax: () => `${plate("of-places pointed", both)}<div class="slider">
      <input type="range" class="heat" aria-label="τ" min="${COLDEST}" max="${hottest(view)}" step="${TICK}">
      <div class="marks">${mark(1, "1", "learn_mark_danet")}${depth > 1 ? mark(Math.sqrt(depth), root, "learn_mark_transformer") : ""}</div></div>
      <p class="result"><b class="temperature"></b>, <span class="softmax-count"></span></p>
      <p class="caption">${say("learn_softmax_note")}</p>`,
    gathered: () => `${plate("of-places pointed", both)}<p class="result">${legend("A", "i", "features")}
      ${legend("E", "i", "gathered")}<span class="gathered-at"></span></p>
      <p class="caption">${say("learn_gathered_caption")}</p>`,
    gate: () => `${plate("", ring)}<form class="stops" role="radiogroup" aria-label="α">${position.gates.map(stop).join("")}</form>
      <p class="result"><span class="gate-share"></span> <span class="gate-changed"></span></p>
      <p class="caption"><span class="gate-label"></span> ${say("learn_gate_note")}</p>`,
    channels: () => `<form class="thumbs" role="radiogroup" aria-label="${say("learn_channels_choose")}">
      ${channel.maps.map(thumb).join("")}</form><div class="pair">
      <div class="channel-before">${plate("of-places")}<p class="caption">${say("learn_channels_before")}</p></div>
      <div class="channel-after">${plate("of-places")}<p class="caption">${say("learn_channels_after")}</p></div></div></div>
      <p class="caption note">${say(`learn_trained_${channel.rule}`)}</p><div class="rules"><svg class="ticks" viewBox="0 0 1000 30" preserveAspectRatio="none" aria-hidden="true"><path/></svg>
      <p class="caption ends"><span class="lowest"></span><span class="highest"></span></p>
      ${["official", "paper"].map((rule) => `<div class="rule-${rule}"><h4>${say(`learn_rule_${rule}`)}</h4>${math(rule)}<ol></ol></div>`).join("")}`,
  };
  const shown = Object.keys(pictures).filter((name) => (name === "channels" ? channel?.maps.length : position));
  const sentence = (name) => say(`learn_${name}${name === "energy" && view.windows ? "_centres" : ""}`, values);
  return shown
    .map((name) => `<li class="step-${name}"><div class="words"><h3>${say(`learn_${name}_title`)}</h3><p>${sentence(name)}</p></div>
      ${math(name)}<div class="seen">${pictures[name]()}</div></li>`)
    .join("");
}

/** The end of the temperature's scale, in logarithms: well beyond √depth. */
function hottest({ depth }) {
  return COLDEST + TICK * Math.ceil((Math.log(depth) / 2 + 1.4 - COLDEST) / TICK);
}

/** How far along its scale a temperature's logarithm is, 0 to 1. */
function along(view, heat) {
  return (heat - COLDEST) / (hottest(view) - COLDEST);
}

// Pictures, charts and figures.

/** A plate has the picture's shape; a canvas of places is as much larger as the grid reaches beyond the picture. */
function fit(plate, { width, height, span }, { grid: [rows, columns] }) {
  plate.style.aspectRatio = `${width} / ${height}`;
  if (!plate.classList.contains("of-places")) return;
  const { style } = plate.querySelector("canvas");
  Object.assign(style, { width: percentage(columns / span[1]), height: percentage(rows / span[0]) });
}

/** A pixel for each place, in the colour (0 to 255) that `shadeOf` gives. */
function paintPlaces(canvas, [rows, columns], shadeOf) {
  Object.assign(canvas, { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  for (let place = 0; place < rows * columns; place++) image.data.set([...shadeOf(place), 255], 4 * place);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The photograph, and over it labels in their colours, those that differ from `trained` the stronger. */
function paintPhoto(canvas, { width, height, classes }, photo, labels = null, trained = null) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0);
  if (!labels) return;
  const image = new ImageData(width, height);
  const colours = classes.map(({ colour }) => colour.match(/\w\w/g).map((part) => parseInt(part, 16)));
  labels.forEach((label, at) => image.data.set([...colours[label], label === trained[at] ? 120 : 255], 4 * at));
  createImageBitmap(image).then((layer) => context.drawImage(layer, 0, 0));
}

/** Numbers as bars up and down from a line. */
function drawBars(chart, values, most) {
  const bar = (value, k) => `M${k + 0.5} 0V${(-value / most).toFixed(4)}`;
  chart.lastElementChild.setAttribute("d", Array.from(values, bar).join(""));
}

/** Each value as a stroke between the least and the greatest. */
function drawTicks(chart, values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const stroke = (value) => `M${((1000 * (value - least)) / (most - least || 1)).toFixed(2)} 0V30`;
  chart.lastElementChild.setAttribute("d", Array.from(values, stroke).join(""));
}

function percentage(share) {
  return `${100 * share}%`;
}

function rgb(colour) {
  return `rgb(${bytesOf(colour)})`;
}

function bytesOf(colour) {
  return Array.from(colour, (part) => Math.round(255 * Math.min(Math.max(part, 0), 1)));
}

function signed(value, digits = 2) {
  return `${value < 0 ? "\u2212" : "+"}\u202f${Math.abs(value).toFixed(digits)}`;
}

/** A share in two figures. */
function fine(share) {
  return share && share < 5e-5 ? "< 0.01\u202f%" : `${(100 * share).toLocaleString("en", { maximumSignificantDigits: 2 })}\u202f%`;
}
