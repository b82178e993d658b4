// What is told beside the picture: classes, places, scale, what hangs on the map, gates and channels.

import { labelAt } from "./answer.js";
import { byClass, largest, perplexity } from "./attention.js";
import { BRIGHT, DARK, lightOf, magma, PINS } from "./stage.js";
import { percent, say, decimal, times, whole } from "./words.js";

const SHUT = 0.02; // the share of a branch below which its map explains little
const SAME = 0.95; // the mean cosine of pairs of maps from which on they are called the same

/** Adds an element with a class and a text to `parent`, and returns it. */
export function add(parent, tag, name = "", text = "") {
  const child = parent.appendChild(document.createElement(tag));
  child.className = name;
  child.textContent = text;
  return child;
}

/** A button that does `act` when it is pressed. */
export function button(parent, name, text, act) {
  const child = add(parent, "button", name, text);
  child.type = "button";
  child.addEventListener("click", act);
  return child;
}

/** One sentence for those who do not see the map. At high energies a place's weights can all be too small to count. */
export function sentence(view, { x, y, direction }, weights) {
  const own = view.classes[labelAt(view, x, y)].name;
  if (!weights) return say("sentence_label", { own, confidence: percent(sure(view, view.confidence, x, y)) });
  if (!largest(weights)) return say("nothing", { own });
  const parts = Array.from(byClass(view, weights), (share, k) => [share, view.classes[k].name]);
  parts.sort((one, other) => other[0] - one[0]);
  const shown = parts.slice(0, 3).filter(([share]) => share >= 0.005);
  const list = shown.map(([share, name]) => `${percent(share)} ${name}`).join(", ");
  return say(`sentence_${direction}`, { own, list, count: count(view, weights) });
}

/** The probability that a map of 0 to 255 has at a pixel. */
export function sure({ width }, confidence, x, y) {
  return confidence[y * width + x] / 255;
}

/**
 * Fills `element` with what is told of `view`. `act` has what its controls do: change(state), isolate(class), pin(),
 * goTo(pin). Returns `update(state, weights, taken)`: of the state's place its map and what `takenFrom` gives, or null.
 */
export function createPanel(element, view, act) {
  element.replaceChildren();
  const parts = [fillPoint(element, view)];
  if (view.position) parts.push(fillChoice(element, "direction", { from: "looks_at", to: "looked_at_by" }, act));
  else add(element, "p", "note", say("no_position"));
  parts.push(fillClasses(element, view, act));
  if (view.position) parts.push(fillPlaces(element, view), fillScale(element, act));
  parts.push(fillLabels(element, act));
  if (view.position) parts.push(fillPins(element, act), fillTaken(element, view, act));
  fillNotes(element, view);
  fillChannels(element, view);
  return (state, weights, taken) => parts.forEach((part) => part(state, weights, taken));
}

function fillPoint(element, view) {
  const line = add(element, "p", "point");
  const swatch = add(line, "i", "swatch");
  const name = add(line, "span", "name");
  const confidence = add(line, "span", "confidence");
  return ({ x, y }) => {
    const own = view.classes[labelAt(view, x, y)];
    swatch.style.background = own.colour;
    name.textContent = own.name;
    confidence.textContent = say("sure", { confidence: percent(sure(view, view.confidence, x, y)) });
  };
}

let groups = 0;

/** Radio buttons for a field of the state: values with the keys of their texts. */
function fillChoice(element, field, texts, act) {
  const group = add(element, "div", `choice ${field}`);
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", say(field));
  groups++;
  const inputs = Object.entries(texts).map(([value, text]) => {
    const label = add(group, "label");
    const input = Object.assign(add(label, "input"), { type: "radio", name: `${field}-${groups}`, value });
    add(label, "span", "", say(text));
    return input;
  });
  group.addEventListener("change", (event) => act.change({ [field]: event.target.value }));
  return (state) => inputs.forEach((input) => (input.checked = input.value === state[field]));
}

/** A line for each class of the picture: its share of the attention as bar and figure, and its share of the picture. */
function fillClasses(element, view, act) {
  const table = add(element, "div", `classes${view.position ? "" : " mapless"}`);
  const head = add(table, "p", "head");
  if (view.position) add(head, "span", "figure", say("of_attention"));
  add(head, "span", "area", say("of_picture"));
  const present = [...view.area.keys()].filter((k) => view.area[k]).sort((a, b) => view.area[b] - view.area[a]);
  const lines = present.map((k) => {
    const { name, colour } = view.classes[k];
    const line = button(table, "class", "", () => act.isolate(k));
    line.title = say("isolate", { name });
    add(line, "i", "swatch").style.background = colour;
    add(line, "span", "name", name);
    const bar = view.position && add(line, "span", "meter");
    const figure = view.position && add(line, "span", "figure");
    bar?.style.setProperty("--area", view.area[k]);
    add(line, "span", "area", percent(view.area[k]));
    return { k, line, bar, figure };
  });
  return ({ isolated }, weights) => {
    const shares = weights && byClass(view, weights);
    for (const { k, line, bar, figure } of lines) {
      line.setAttribute("aria-pressed", isolated === k);
      if (!shares) continue;
      bar.style.setProperty("--share", shares[k]);
      figure.textContent = percent(shares[k]);
    }
  };
}

function fillPlaces(element, view) {
  const line = add(element, "p", "places");
  const shared = add(line, "b");
  const sharing = add(line, "span");
  return ({ direction }, weights) => {
    shared.textContent = count(view, weights);
    sharing.textContent = say(`sharing_${direction}`);
  };
}

/** "≈ 210 of 2,700 places". */
function count({ places }, weights) {
  const shared = Math.round(perplexity(weights));
  return say("places", { shared: `${shared ? "≈ " : ""}${whole(shared)}`, places: whole(places) });
}

/** The map's colours over the multiples of the average that they stand for, with a mark at the map's largest. */
function fillScale(element, act) {
  const scale = add(element, "div", "scale");
  const follow = fillChoice(scale, "map", { light: "light", magma: "magma" }, act);
  const ramp = add(scale, "div", "ramp");
  const mark = add(ramp, "i");
  const ticks = add(scale, "p", "ticks");
  for (let multiple = DARK; multiple <= BRIGHT; multiple *= 4) {
    const tick = add(ticks, "span", "", multiple === 0.25 ? "¼" : String(multiple));
    tick.style.left = `${100 * lightOf(multiple)}%`;
  }
  const told = add(scale, "p", "told");
  add(told, "span", "", say("average"));
  const most = add(told, "span", "most");
  const stops = Array.from({ length: 17 }, (_, i) => i / 16);
  const ramps = {
    light: stops.map((share) => `rgb(${Array(3).fill(Math.round(70 + 185 * share))})`),
    magma: stops.map((share) => `rgb(${magma(share)})`),
  };
  return (state, weights) => {
    const multiple = largest(weights) * weights.length;
    follow(state);
    ramp.style.background = `linear-gradient(90deg, ${ramps[state.map]})`;
    mark.style.left = `${100 * lightOf(multiple)}%`;
    most.textContent = say("most", { times: times(multiple) });
  };
}

function fillLabels(element, act) {
  const label = add(element, "label", "opacity");
  add(label, "span", "", say("labels"));
  const slider = Object.assign(add(label, "input"), { type: "range", min: 0, max: 1, step: 0.05 });
  const told = add(label, "span", "figure");
  slider.addEventListener("input", () => act.change({ labels: slider.valueAsNumber }));
  return ({ labels }) => {
    slider.value = labels;
    told.textContent = percent(labels);
  };
}

function fillPins(element, act) {
  const line = add(element, "div", "pins");
  const toggle = button(line, "toggle", "", act.pin);
  const chips = Array.from(PINS, (_, number) => {
    const chip = button(line, `chip pin-${number + 1}`, number + 1, () => act.goTo(number));
    chip.setAttribute("aria-label", say("go_to_pin", { number: number + 1 }));
    return chip;
  });
  const label = add(line, "label", "beside");
  const beside = Object.assign(add(label, "input"), { type: "checkbox" });
  add(label, "span", "", say("beside"));
  beside.addEventListener("change", () => act.change({ beside: beside.checked }));
  return ({ pins, pair, place, direction, beside: on }) => {
    const pinned = pins.some((pin) => pin.place === place && pin.direction === direction);
    toggle.textContent = say(pinned ? "unpin" : "pin");
    toggle.disabled = !pinned && pins.length === PINS.length;
    chips.forEach((chip, number) => {
      chip.hidden = number >= pins.length;
      chip.setAttribute("aria-pressed", on && pair.includes(number));
    });
    label.hidden = pins.length < 2;
    beside.checked = on;
  };
}

/** Label and confidence with all places, without the most attended, and without as many at random. */
function fillTaken(element, view, act) {
  const box = add(element, "div", "taken");
  let shown = false;
  const toggle = button(box, "toggle", "", () => act.change({ taken: !shown }));
  const table = add(box, "dl");
  const note = add(box, "p", "note");
  const lines = [["taken_as_is", ""], ["taken_after", "taken_"], ["taken_control", "control_"]].map(([text, tensors]) => {
    const term = add(table, "dt");
    const value = add(table, "dd");
    const swatch = add(value, "i", "swatch");
    const name = add(value, "span", "name");
    const figure = add(value, "span", "figure");
    const [labels, confidence] = [view[`${tensors}labels`], view[`${tensors}confidence`]];
    return { text, labels, confidence, term, swatch, name, figure };
  });
  return ({ x, y }, _, taken) => {
    shown = taken !== null;
    toggle.textContent = say(shown ? "put_back" : "take_away");
    table.hidden = note.hidden = !shown;
    if (!shown) return;
    for (const { text, labels, confidence, term, swatch, name, figure } of lines) {
      const { name: own, colour } = view.classes[labels[y * view.width + x]];
      term.textContent = say(text, { count: whole(taken.count) });
      swatch.style.background = colour;
      name.textContent = own;
      figure.textContent = percent(sure(view, confidence, x, y));
    }
    note.textContent = say("taken_note", { share: percent(view.position.taken), weight: percent(taken.weight) });
  };
}

/** What belongs beside every map: how open its branch is, and whether pixels differ in their maps. */
function fillNotes(element, { position, model }) {
  const notes = add(element, "ul", "notes");
  if (position) {
    const { similarity } = position;
    const same = say(similarity >= SAME ? "same_map" : "own_map", { similarity: decimal(similarity, 2) });
    for (const line of [...caption(position), same]) add(notes, "li", "", line);
  }
  if (model.name) add(notes, "li", "", say("model", model));
  if (model.note) add(notes, "li", "", model.note);
}

/** What belongs beside every map, in lines: how open its branch is. */
export function caption({ gate, share }) {
  const lines = [say("gate", { gate: gateText(gate) }), say("share", { share: shareText(share) })];
  if (share < SHUT) lines.push(say("shut"));
  if (gate < 0) lines.push(say("negative"));
  return lines;
}

/** A gate's figures: two decimals, or three for a small one. */
export function gateText(gate) {
  return decimal(gate, Math.abs(gate) >= 0.1 ? 2 : 3);
}

/** A branch's share on the features that it is added to: 31 %, 1.2 %. */
export function shareText(share) {
  return `${(100 * share).toFixed(share >= 0.1 ? 0 : 1)}\u202f%`;
}

/** Twelve channels as small pictures; of the one chosen, before and after attention, and what it draws on. */
function fillChannels(element, view) {
  const box = add(element, "details", "channels");
  add(box, "summary", "", say("channels"));
  if (!view.channel) return add(box, "p", "note", say("no_channel"));
  const { gate, share, maps, total, grid } = view.channel;
  const cells = grid[0] * grid[1];
  const picture = (parent, values, index) =>
    drawGrey(add(parent, "canvas"), values.subarray(index * cells, (index + 1) * cells), grid);
  add(box, "p", "note", say("channel_hint", { shown: maps.length, total: whole(total) }));
  const thumbs = add(box, "div", "thumbs");
  const large = add(box, "div", "large");
  const told = add(box, "p", "draws");
  const buttons = maps.map(({ index }, i) => {
    const thumb = button(thumbs, "thumb", "", () => choose(i));
    thumb.setAttribute("aria-label", say("channel", { index }));
    picture(thumb, view.channels, i);
    return thumb;
  });
  add(box, "p", "note", say("channel_gate", { gate: gateText(gate), share: shareText(share) }));
  function choose(chosen) {
    buttons.forEach((thumb, i) => thumb.setAttribute("aria-pressed", i === chosen));
    large.replaceChildren();
    for (const [text, values] of [["before", view.channels], ["after", view.channels_after]]) {
      const figure = add(large, "figure");
      picture(figure, values, chosen);
      add(figure, "figcaption", "", say(text));
    }
    const list = maps[chosen].draws_on.map(([index, weight]) => `${index} (${percent(weight)})`).join(", ");
    told.textContent = `${say("channel", maps[chosen])} ${say("draws_on", { list })}`;
  }
  return maps.length && choose(0);
}

/** Values of 0 to 255 as grey, a pixel each. */
function drawGrey(canvas, values, [height, width]) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(values, (value) => 0xff000000 | (value * 0x10101)));
  context.putImageData(image, 0, 0);
}
