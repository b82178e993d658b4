// The page: one picture to ask, the images at hand, what can be done with them, and an address that keeps it all.

import { decode, labelAt, pixelOf, placeOf, unpacked } from "./answer.js";
import { column, firstPlace, mapOf, row, takenFrom } from "./attention.js";
import { learn } from "./learn.js";
import { add, button, createPanel, sentence, sure } from "./panel.js";
import { connect, fetched, Refusal } from "./server.js";
import { save, shareMenu, shares } from "./share.js";
import { createStage, PINS } from "./stage.js";
import { language, percent, say } from "./words.js";

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const SPOKEN_AFTER = 400; // milliseconds of rest, so that a screen reader is told of the place where a drag ends
const OF_VIEW = { labels: 0, isolated: null, pins: [], pair: [], beside: false, taken: false, temperature: 1 };

/** Brings `element` to life with `sources`: a name, perhaps a title, and bytes(), which gives an answer's bytes. */
export async function mount(element, sources) {
  const served = element.hasAttribute("data-served");
  const network = element.hasAttribute("data-network");
  const alone = document.body.classList.contains("attend-page");
  const state = { view: null, place: 0, x: 0, y: 0, direction: "from", map: "light", learn: false, ...OF_VIEW };
  element.lang = language;
  if (network) element.replaceChildren(); // what it says where no script runs
  const menu = add(element, "div", "menu");
  const gallery = add(menu, "div", "gallery");
  const status = add(element, "p", "status");
  const pictures = add(element, "div", "stages");
  const side = add(element, "div", "side");
  const lesson = add(element, "section", "learn");
  const spoken = add(element, "p", "spoken");
  gallery.setAttribute("role", "group");
  gallery.setAttribute("aria-label", say("images"));
  status.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");
  const actions = add(menu, "div", "actions");
  const lessonButton = button(actions, "toggle", say("lesson"), toggleLesson);
  shareMenu(add(actions, "div", "share"), current);
  const tabs = [];
  let stages = [];
  let update = null;
  let teacher = null;
  let opened = -1;
  let latest = null;
  let frame = null;
  let rest = null;

  /** The pins whose maps stand side by side, or the point that moves. */
  function points() {
    const { beside, pair, pins } = state;
    return beside ? [...pair].sort().map((number) => ({ ...pins[number], number })) : [state];
  }

  function show() {
    frame = null;
    const { view, pins, beside, pair, temperature } = state;
    const weights = mapOf(view, state, temperature);
    const taken = state.taken ? takenFrom(view, state.place) : null;
    const numbered = pins.map(({ x, y }, number) => ({ x, y, number }));
    points().forEach((point, k) => {
      const moves = !beside || point.number === pair.at(-1);
      const own = moves ? weights : mapOf(view, point, temperature);
      const marks = { pins: numbered.filter(({ number }) => !beside || number === point.number), removed: null };
      if (taken && moves) marks.removed = taken.places;
      stages[k].draw({ ...state, ...marks, x: point.x, y: point.y, weights: own });
      stages[k].caption.textContent = beside ? `${PINS[point.number]} ${sentence(view, point, own)}` : "";
    });
    update(state, weights, taken);
    teacher?.update(state);
    clearTimeout(rest);
    rest = setTimeout(() => {
      spoken.textContent = sentence(view, state, weights);
      if (alone) history.replaceState(null, "", `#${address(sources[opened].name, state)}`);
    }, SPOKEN_AFTER);
  }

  /** The state with `next` in it, drawn once a frame at most; where pins stand side by side, the last chosen moves. */
  function change(next) {
    Object.assign(state, next);
    const { x, y, place, direction, beside, pair } = state;
    if (beside) state.pins = state.pins.map((pin, i) => (i === pair.at(-1) ? { x, y, place, direction } : pin));
    frame ??= requestAnimationFrame(show);
  }

  function move(x, y) {
    change({ place: placeOf(state.view, x, y), x, y });
  }

  const act = {
    change: (next) => (next.beside === undefined ? change(next) : compare(next.beside)),
    isolate: (k) => change({ isolated: state.isolated === k ? null : k }),
    pin() {
      const { x, y, place, direction, pins, pair } = state;
      const at = pins.findIndex((pin) => pin.place === place && pin.direction === direction);
      if (at < 0 && pins.length < PINS.length) {
        change({ pins: [...pins, { x, y, place, direction }], pair: [...pair, pins.length].slice(-2) });
      } else if (at >= 0) {
        compare(false);
        const left = pins.filter((_, i) => i !== at);
        change({ pins: left, pair: [...left.keys()].slice(-2) });
      }
    },
    goTo(number) {
      const { pins, pair } = state;
      change({ ...pins[number], pair: [...pair.filter((other) => other !== number), number].slice(-2) });
    },
  };

  /** What can be shared: the view, the state, and the picture that is pointed at. */
  function current() {
    const active = state.beside ? points().findIndex(({ number }) => number === state.pair.at(-1)) : 0;
    return [state.view, state, stages[active].canvas];
  }

  /** Saves the first of what can be shared, the card. */
  async function download() {
    const [{ make, file }] = shares(...current());
    save(await make(), file);
  }

  function toggleLesson() {
    teach(!state.learn);
    if (state.learn) lesson.scrollIntoView();
  }

  /** Opens the lesson below the picture, or closes it. */
  function teach(open) {
    state.learn = open;
    lesson.hidden = !open;
    lesson.replaceChildren();
    teacher = open ? learn(lesson, state.view, state, change) : null;
    lessonButton.setAttribute("aria-expanded", open);
    change(open ? {} : { temperature: 1 });
  }

  /** Two pins side by side, or one picture. */
  function compare(beside) {
    if (beside && stages.length < 2) stages.push(addStage());
    if (stages[1]) stages[1].figure.hidden = !beside;
    pictures.classList.toggle("two", beside);
    change(beside ? { ...state.pins[state.pair.at(-1)], beside } : { beside });
  }

  /** One more picture of the view, which can be pointed at. */
  function addStage() {
    const { view, image } = state;
    const k = stages.length;
    const figure = add(pictures, "figure");
    const stage = createStage(add(figure, "div", "stage"), view, image);
    const { canvas, pixel, tip } = stage;
    const name = view.name || say("image");
    canvas.setAttribute("aria-label", say(view.position ? "canvas" : "canvas_labels", { name }));
    canvas.setAttribute("aria-roledescription", say("canvas_role"));
    const choose = () => state.beside && act.goTo(points()[k].number);
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      choose();
      move(...pixel(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = pixel(event);
      const confidence = percent(sure(view, view.confidence, x, y));
      tip(event.pointerType === "mouse" ? `${view.classes[labelAt(view, x, y)].name} ${confidence}` : "", x, y);
      if (canvas.hasPointerCapture(event.pointerId)) move(x, y);
    });
    canvas.addEventListener("pointerleave", () => tip(""));
    canvas.addEventListener("focus", choose);
    canvas.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if ((!step && event.key !== " ") || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      if (!step) return act.pin();
      const [rows, columns] = view.grid;
      const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);
      const down = clamp(Math.floor(state.place / columns) + step[0], rows);
      const place = down * columns + clamp((state.place % columns) + step[1], columns);
      const [x, y] = pixelOf(view, place);
      change({ place, x, y });
    });
    return { ...stage, figure, caption: add(figure, "figcaption") };
  }

  /** Reads a source once; tells why where that fails, and returns whether it did not. */
  async function load(source) {
    const name = source.title ?? source.name;
    if (source.image) return true;
    tell(say("opening", { name }));
    try {
      source.view ??= await source.bytes().then(viewOf);
      source.image ??= await createImageBitmap(source.view.picture);
      tell("");
      return true;
    } catch (error) {
      if (error instanceof Refusal) tell(say("failed", { name, message: error.message }));
      else tell(error instanceof TypeError ? say("gone") : say("not_answer", { name }));
      return false;
    }
  }

  /** Shows the image of a source, at the point where the last one was or at one that tells most. */
  async function open(index, wanted = {}) {
    const source = sources[index];
    latest = source;
    if (!(await load(source)) || latest !== source) return; // another was chosen meanwhile
    opened = index;
    const { view, image } = source;
    const stays = state.view?.width === view.width && state.view.height === view.height;
    const [x, y] = stays ? [state.x, state.y] : pixelOf(view, firstPlace(view));
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", i === index));
    const labels = view.position ? state.labels : 0.6;
    Object.assign(state, OF_VIEW, { view, image, labels, x, y }, within(wanted, view));
    state.place = placeOf(view, state.x, state.y);
    element.style.setProperty("--ratio", view.width / view.height);
    pictures.replaceChildren();
    stages = [];
    stages.push(addStage());
    pictures.classList.remove("two");
    update = createPanel(side, view, act);
    teach(state.learn);
    show();
    element.danet = { state, view, row: (place) => row(view, place), column: (place) => column(view, place) };
  }

  function addTab(source, index) {
    tabs.push(button(gallery, "tab", source.title ?? source.name, () => open(index)));
  }

  /** A line of what goes on, perhaps with a button. */
  function tell(text, label, press) {
    status.textContent = text;
    if (!label) return;
    button(status, "toggle", label, () => {
      tell("");
      press();
    });
  }

  async function receive(files) {
    for (const file of [...files]) {
      if (file.name.endsWith(".safetensors")) await join(file.name, () => file.arrayBuffer());
      else if (send) await send(file);
      else tell(say("needs_server", { name: file.name }));
    }
  }

  /** One more image to choose, which is shown; none where it is no answer. */
  async function join(name, bytes) {
    const source = { name, bytes };
    if (!(await load(source))) return;
    addTab(source, sources.push(source) - 1);
    await open(sources.length - 1);
  }

  const encoder = network ? await import("./network.js") : served ? { connect } : null;
  const send = encoder?.connect(tell, join);
  sources.forEach(addTab);
  if (alone) {
    addInput(actions, send, receive);
    addEventListener("hashchange", () => openAddress());
  }
  listen(alone ? document : element, receive);
  element.addEventListener("keydown", (event) => {
    if (!state.view || event.repeat || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key.toLowerCase() === "l") toggleLesson();
    if (event.key.toLowerCase() === "d") download();
  });
  await openAddress();

  function openAddress() {
    const wanted = alone ? new URLSearchParams(location.hash.slice(1)) : new URLSearchParams();
    const index = sources.findIndex(({ name }) => name === wanted.get("image"));
    if (sources.length) return open(Math.max(index, 0), index < 0 ? {} : Object.fromEntries(wanted));
    element.danet = { state };
    return tell(say("empty"));
  }
}

/** The view of an answer, with the `bytes` themselves, to be shared. */
function viewOf(bytes) {
  return { ...decode(bytes), bytes };
}

/** What of the state an address keeps, and what `within` reads from one. */
function address(image, { x, y, direction, map, labels, isolated, taken, learn }) {
  const kept = { image, at: `${x},${y}`, isolated, taken: taken || null, learn: learn || null, labels: labels || null };
  if (direction === "to") kept.direction = direction;
  if (map === "magma") kept.map = map;
  return new URLSearchParams(Object.entries(kept).filter(([, value]) => value !== null));
}

/** The parts of an address that mean something for `view`. */
function within({ at, direction, map, labels, isolated, taken, learn }, view) {
  const next = {};
  const [x, y] = (at ?? "").split(",").map(Number);
  if (Number.isInteger(x) && Number.isInteger(y) && x >= 0 && y >= 0 && x < view.width && y < view.height) {
    Object.assign(next, { x, y });
  }
  if (["from", "to"].includes(direction)) next.direction = direction;
  if (["light", "magma"].includes(map)) next.map = map;
  if (labels >= 0 && labels <= 1) next.labels = Number(labels);
  if (view.classes[isolated]) next.isolated = Number(isolated);
  if (taken && view.position) next.taken = true;
  if (learn) next.learn = true;
  return next;
}

/** What chooses a file, and on phones a photograph. */
function addInput(menu, images, receive) {
  const image = { accept: "image/*" };
  const inputs = images
    ? { choose: image, photograph: { ...image, capture: "environment" } }
    : { choose_answer: { accept: ".safetensors" } };
  for (const [text, settings] of Object.entries(inputs)) {
    const label = add(menu, "label", `file ${text}`);
    const input = add(label, "input");
    input.type = "file";
    for (const [name, value] of Object.entries(settings)) input.setAttribute(name, value);
    add(label, "span", "", say(text));
    input.addEventListener("change", () => {
      receive(input.files);
      input.value = "";
    });
  }
  add(menu, "span", "note", say("or_drop"));
}

/** Files that are dropped or pasted onto `target` go to `receive`. */
function listen(target, receive) {
  target.addEventListener("dragover", (event) => event.preventDefault());
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    receive(event.dataTransfer.files);
  });
  target.addEventListener("paste", (event) => receive(event.clipboardData.files));
}

/** The answers that the page itself holds, or the examples of its server or folder. */
function sourcesOf(element) {
  const address = { served: (name) => `v1/examples/${name}`, network: (name) => `examples/${name}.safetensors` };
  const kind = Object.keys(address).find((key) => element.hasAttribute(`data-${key}`));
  if (kind) {
    return ["scene", "twin"].map((name) => ({
      name,
      title: say(name),
      bytes: async () => (await fetched(address[kind](name))).arrayBuffer(),
    }));
  }
  const scripts = [...element.querySelectorAll("script[type='application/danet']")];
  return scripts
    .filter((script) => script.textContent)
    .map((script) => ({ name: script.dataset.name, bytes: () => unpacked(script.textContent) }));
}

if (document.body.classList.contains("attend-page")) document.documentElement.lang = language;
for (const text of document.querySelectorAll("[data-say]")) text.textContent = say(text.dataset.say);
for (const element of document.querySelectorAll(".attend")) mount(element, sourcesOf(element));
