// What can be taken from the page: itself with its answer, a card, the map, the labels, and the map's numbers.

import { labelAt, pixelOf, placeOf, unpacked } from "./answer.js";
import { byClass, mapOf } from "./attention.js";
import { add, button, caption, sentence } from "./panel.js";
import { blend, colour, layer } from "./stage.js";
import { percent, say } from "./words.js";

const CARD = { width: 1200, height: 630, margin: 48, column: 344, gap: 40 };
const BARS = 5; // at most
const BAR = 36; // pixels from one to the next
const OPACITY = 0.55; // of the labels over the image, unless another is chosen
const WIDE = 640; // pixels at least of a map, so that its caption can be read
const FACE = "system-ui, -apple-system, 'Segoe UI', sans-serif";
const HELD = 60_000; // milliseconds that a file is kept for its download
const PLACE = '<script type="application/danet"';
const SERVED = document.querySelector("[data-served], [data-network]") !== null;
const SOURCE = SERVED ? null : `<!doctype html>\n${document.documentElement.outerHTML}`; // before it comes to life

/** What can be downloaded, in the order of the menu; `picture` is the map as shown, without ring and pins. */
export function shares(view, state, picture) {
  const name = view.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "image";
  const direction = state.direction === "from" ? "looks-at" : "looked-at-by";
  const point = view.position ? `${state.x}-${state.y}-${direction}` : "labels";
  const canvas = (draw) => async () => blobOf(await draw());
  const all = [
    { key: "share_card", file: `${name}-${point}-card.png`, make: canvas(() => card(view, state, picture)) },
    { key: "share_page", file: `${name}-attention.html`, make: () => standAlone(view) },
    { key: "share_map", file: `${name}-${point}-map.png`, make: canvas(() => captioned(view, state, picture)) },
    { key: "share_json", file: `${name}-${point}.json`, make: async () => json(view, state) },
    { key: "share_overlay", file: `${name}-overlay.png`, make: canvas(() => overlay(view, state.labels || OPACITY)) },
    { key: "share_labels", file: `${name}-labels.png`, make: () => labelsPng(view) },
  ];
  return all.filter(({ key }) => view.position || !["share_map", "share_json"].includes(key));
}

/** A button that opens a list of all downloads, in `element`. `current` gives the arguments of `shares`. */
export function shareMenu(element, current) {
  const details = add(element, "details");
  const summary = add(details, "summary", "", say("share_menu"));
  const menu = add(details, "div", "downloads");
  const list = add(menu, "ul");
  const told = add(menu, "p", "told");
  told.setAttribute("role", "status");
  const close = () => (details.open = false);

  async function take({ file, make }) {
    told.textContent = say("share_making", { file });
    try {
      save(await make(), file);
      told.textContent = say("share_saved", { file });
    } catch (error) {
      told.textContent = say("share_failed", { file, message: error.message });
    }
  }

  details.addEventListener("toggle", () => {
    list.replaceChildren();
    told.textContent = "";
    if (!details.open) return;
    for (const share of shares(...current())) button(add(list, "li"), "", say(share.key), () => take(share));
    list.querySelector("button").focus();
  });
  details.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && details.open) {
      const next = buttons.indexOf(document.activeElement) + step;
      buttons.at(next % buttons.length).focus();
    } else if (event.key === "Escape" && details.open) {
      close();
      summary.focus();
    } else return;
    event.preventDefault();
  });
  document.addEventListener("pointerdown", ({ target }) => details.contains(target) || close());
}

/** Starts the download of a blob. */
export function save(blob, file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), HELD);
}

/** The page as one file that needs no server, with this answer in it: the document itself, or the server's file. */
async function standAlone(view) {
  const text = SOURCE ?? (await servedPage());
  const parts = [text];
  if (SERVED || !(await holds(view))) {
    const at = text.indexOf(PLACE); // the page's script has these words too, but further down
    const name = view.name.replace(/[&"<]/g, (letter) => `&#${letter.charCodeAt(0)};`);
    const body = await base64(await compressed(view.bytes, "gzip"));
    parts.splice(0, 1, text.slice(0, at), PLACE, ` data-name="${name}">${body}<`, "/script>", text.slice(at));
  }
  return new Blob(parts, { type: "text/html" });
}

async function servedPage() {
  const reply = await fetch("stand-alone.html");
  if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
  return reply.text();
}

/** Whether the answer of a view is one that the document came with. */
async function holds({ name, bytes }) {
  const scripts = [...document.querySelectorAll("script[type='application/danet']")];
  const named = scripts.filter(({ dataset }) => dataset.name === name);
  const bodies = await Promise.all(named.map((script) => unpacked(script.textContent)));
  return bodies.some(({ byteLength }) => byteLength === bytes.byteLength);
}

/** The numbers of the map, for a program; `point` is a pixel of the image at its own size. */
function json(view, state) {
  const { name, model, grid, span, original_size, size, position, classes } = view;
  const weights = mapOf(view, state, state.temperature);
  const shared = byClass(view, weights);
  const numbers = {
    name,
    model,
    point: originalPixel(view, state),
    direction: state.direction,
    temperature: temperatureOf(state),
    gate: position.gate,
    share: position.share,
    label: classes[labelAt(view, state.x, state.y)].name,
    by_class: Object.fromEntries(classes.map((each, k) => [each.name, shared[k]])),
    original_size,
    size,
    grid,
    span,
    weights: Array.from(weights, (weight) => Number(weight.toPrecision(7))),
  };
  return new Blob([JSON.stringify(numbers), "\n"], { type: "application/json" });
}

/** The temperature of the map: only what a place looks at has one. */
function temperatureOf({ direction, temperature }) {
  return direction === "from" ? temperature : 1;
}

/** The pixel (x, y) of the image at its own size where the state's begins, or one before, which is of its place. */
function originalPixel(view, { x, y, place }) {
  const [height, width] = view.original_size;
  const original = { ...view, height, width };
  const [across, down] = [Math.ceil((x * width) / view.width), Math.ceil((y * height) / view.height)];
  const pixels = [[across, down], [across - 1, down], [across, down - 1], [across - 1, down - 1]];
  return pixels.find((pixel) => placeOf(original, ...pixel) === place) ?? pixelOf(original, place);
}

/** What belongs beside the map, in lines. */
function captionOf({ position }, state) {
  if (!position) return [];
  const temperature = temperatureOf(state);
  return temperature === 1 ? caption(position) : [...caption(position), `τ = ${temperature.toFixed(2)}`];
}

/** A picture to post: 1200×630, the map with what it says, never without gate and share. */
function card(view, state, picture) {
  const { width, height, margin, column, gap } = CARD;
  const { canvas, context, inks } = paper(width, height, picture);
  const room = [width - 2 * margin - column - gap, height - 2 * margin];
  const factor = Math.min(room[0] / view.width, room[1] / view.height);
  const [across, down] = [view.width * factor, view.height * factor];
  context.drawImage(picture, margin, margin, across, down);
  if (view.position) ring(context, margin + (state.x + 0.5) * factor, margin + (state.y + 0.5) * factor, 13);
  const left = margin + across + gap;
  const right = width - margin - left;
  const weights = mapOf(view, state, state.temperature);
  const told = sentence(view, state, weights);
  const bold = { colour: inks.ink, weight: 650, most: 7 };
  let y = margin - 4;
  if (room[1] - down > 150) write(context, told, margin, margin + down + 24, across, { ...bold, size: 28, most: 4 });
  else y = write(context, told, left, y, right, { ...bold, size: right > 420 ? 32 : 26 }) + 26;
  const small = { size: 18, colour: inks.muted };
  const facts = [...captionOf(view, state), view.model.name];
  const lines = [
    ...wrapped(context, view.name, right, small),
    ...facts.flatMap((line) => wrapped(context, line, right, { ...small, most: 2 })),
  ];
  const low = height - margin - 42 - 24 * lines.length;
  lines.forEach((line, number) => write(context, line, left, low + 24 * number, Infinity, small));
  bars(context, view, weights, left, y, right, inks, Math.min(Math.floor((low - y) / BAR), BARS));
  mark(context, width - margin, height - margin, inks);
  return canvas;
}

/** The classes that have most of the weight, or of the picture. */
function bars(context, view, weights, left, top, width, inks, most) {
  const shared = Array.from(weights ? byClass(view, weights) : view.area, (share, k) => [share, view.classes[k]]);
  const shown = shared.sort((a, b) => b[0] - a[0]).slice(0, most).filter(([share]) => share >= 0.005);
  const from = left + Math.min(0.42 * width, 190);
  const length = left + width - from - 62;
  shown.forEach(([share, { name, colour }], line) => {
    const y = top + BAR * line;
    const fill = (style, x, y, across, down) => {
      context.fillStyle = style;
      context.fillRect(x, y, across, down);
    };
    fill(inks.muted, left - 1, y + 2, 16, 16);
    fill(colour, left, y + 3, 14, 14);
    fill(inks.rule, from, y + 4, length, 12);
    fill(inks.accent, from, y + 4, length * share, 12);
    write(context, name, left + 24, y, from - left - 36, { size: 19, colour: inks.ink });
    write(context, percent(share), left + width, y, Infinity, { size: 19, colour: inks.ink, align: "right" });
  });
}

/** The map as shown, ringed, and under it what belongs to it. */
function captioned(view, state, picture) {
  const factor = Math.ceil(WIDE / view.width);
  const [across, down] = [view.width * factor, view.height * factor];
  const { canvas, context, inks } = paper(across, down + 72, picture);
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, across, down);
  ring(context, (state.x + 0.5) * factor, (state.y + 0.5) * factor, 11);
  const told = sentence(view, state, mapOf(view, state, state.temperature));
  const next = write(context, told, 12, down + 12, across - 24, { size: 17, colour: inks.ink });
  write(context, captionOf(view, state).join(" · "), 12, next + 2, across - 24, { size: 17, colour: inks.muted });
  return canvas;
}

/** The image under its predicted classes. */
async function overlay(view, opacity) {
  const { canvas, context } = layer(view);
  const classes = layer(view);
  colour(view, classes, null);
  blend(context, await createImageBitmap(view.picture));
  blend(context, classes.canvas, opacity);
  return canvas;
}

/** A PNG whose pixels are the indices of the classes and whose palette is their colours, as masks are kept. */
async function labelsPng(view) {
  const { width, height, labels } = view;
  const lines = new Uint8Array(height * (width + 1)); // each begins with a 0: no filter
  for (let y = 0; y < height; y++) lines.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 8, 3, 0, 0, 0]); // eight bits a pixel, by palette
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  const parts = { IHDR: header, PLTE: palette(view), IDAT: await compressed(lines, "deflate"), IEND: new Uint8Array() };
  const chunks = Object.entries(parts).map(([name, bytes]) => chunk(name, bytes));
  return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...chunks], { type: "image/png" });
}

/** A part of a PNG: length, name, bytes, and a check of the last two. */
function chunk(name, bytes) {
  const whole = new Uint8Array(bytes.length + 12);
  whole.set(new TextEncoder().encode(name), 4);
  whole.set(bytes, 8);
  new DataView(whole.buffer).setUint32(0, bytes.length);
  new DataView(whole.buffer).setUint32(bytes.length + 8, crc32(whole.subarray(4, bytes.length + 8)));
  return whole;
}

function crc32(bytes) {
  let rest = -1;
  for (const byte of bytes) {
    rest ^= byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ (rest & 1 ? 0xedb88320 : 0);
  }
  return ~rest;
}

function palette({ classes }) {
  return Uint8Array.from(classes.flatMap(({ colour }) => colour.match(/\w\w/g).map((part) => parseInt(part, 16))));
}

async function compressed(bytes, format) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function base64(bytes) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(new Blob([bytes]));
  });
}

function blobOf(canvas) {
  return new Promise((done, failed) => {
    canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error(say("share_no_picture")))), "image/png");
  });
}

/** A canvas on the page's ground, and its inks as they are where `element` stands. */
function paper(width, height, element) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  const style = getComputedStyle(element);
  const names = ["ground", "ink", "muted", "rule", "accent"];
  const inks = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  context.fillStyle = inks.ground;
  context.fillRect(0, 0, width, height);
  Object.assign(context, { textBaseline: "top", imageSmoothingQuality: "high" });
  return { canvas, context, inks };
}

/** A text in lines of at most `width`, the last cut off where there would be more than `most`. */
function wrapped(context, text, width, { size = 18, weight = 400, most = 1 }) {
  context.font = `${weight} ${size}px ${FACE}`;
  const fits = (line) => context.measureText(line.trimEnd()).width <= width;
  const parts = text.match(/[\u2e80-\uffef]|(?:≈ )?[^ \u2e80-\uffef]+ */g) ?? []; // Chinese may break anywhere
  const lines = [];
  for (const part of parts) {
    if (lines.length && (fits(lines.at(-1) + part) || lines.length === most)) lines.push(lines.pop() + part);
    else lines.push(part);
  }
  return lines.map((line) => {
    if (fits(line)) return line.trimEnd();
    while (line && !fits(`${line}…`)) line = line.slice(0, -1);
    return `${line}…`;
  });
}

/** Writes it. Returns where it ends. */
function write(context, text, x, y, width, { colour, align = "left", ...face }) {
  const { size = 18 } = face;
  const lines = wrapped(context, text, width, face);
  Object.assign(context, { fillStyle: colour, textAlign: align });
  lines.forEach((line, number) => context.fillText(line, x, y + 1.32 * size * number));
  return y + 1.32 * size * lines.length;
}

function ring(context, x, y, radius) {
  for (const [width, colour] of [[9, "#14161a"], [4, "#fff"]]) {
    Object.assign(context, { lineWidth: width, strokeStyle: colour });
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

/** The name, behind a ring, at a lower right corner. */
function mark(context, right, bottom, inks) {
  write(context, "danet", right, bottom - 25, Infinity, { size: 24, weight: 650, colour: inks.ink, align: "right" });
  Object.assign(context, { lineWidth: 4, strokeStyle: inks.accent });
  context.beginPath();
  context.arc(right - context.measureText("danet").width - 17, bottom - 11, 7, 0, 2 * Math.PI);
  context.stroke();
}
