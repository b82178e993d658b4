// The big picture: the image, dimmed, with light put back on it where a place looks; labels, ring and pins on top.

import { covers } from "./answer.js";

/** Multiples of the average weight at which a place stays dark, and has all its light: fixed, so that maps compare. */
export const DARK = 0.25;
export const BRIGHT = 64;
export const PINS = "①②③④⑤";

const DIM = { saturation: 0.35, brightness: 0.55 };
const LAMP = "rgb(54 46 30)"; // warm, so that a black thing that is looked at is seen to be lit
const ISOLATED = 0.6; // the least opacity of a class that is shown alone
const STEPS = 255;
// prettier-ignore
const MAGMA = [[0, 0, 4], [29, 17, 71], [81, 18, 124], [131, 38, 129], [183, 55, 121], [231, 82, 99], [252, 137, 97],
  [254, 196, 136], [252, 253, 191]];
const SHADES = { light: shades((share) => [255, 255, 255, share]), magma: shades((share) => [...magma(share), 0.75]) };

/** From 0, dark, to 1 for a multiple of the average weight, in even steps of its logarithm. */
export function lightOf(multiple) {
  return Math.min(Math.max(Math.log(multiple / DARK) / Math.log(BRIGHT / DARK), 0), 1);
}

/** The colour of magma at a share of 0 to 1. */
export function magma(share) {
  const at = share * (MAGMA.length - 1);
  const low = Math.min(Math.floor(at), MAGMA.length - 2);
  return MAGMA[low].map((value, channel) => Math.round(value + (at - low) * (MAGMA[low + 1][channel] - value)));
}

/**
 * A picture of `view` in `element`, from an ImageBitmap of its image.
 *
 * `draw` takes {weights, x, y, removed, pins, map, labels, isolated}: the map of the pixel (x, y) as weights of places,
 * or null where the model has none; places to hatch, or null; pins as {number, x, y}; the rest as in the state. `pixel`
 * is the pixel under a pointer, beyond the edge the nearest; `tip` shows a text at a pixel, or hides it.
 */
export function createStage(element, view, image) {
  const { width, height } = view;
  const lines = covers(view);
  const [dimmed, lit] = [dim(view, image), lamplit(view, image)];
  const light = layer(view);
  const classes = layer(view);
  element.innerHTML = '<canvas tabindex="0" role="application"></canvas><i class="ring"></i><span class="tip"></span>';
  const [canvas, ring, hint] = element.children;
  const { context } = layer(view, canvas);
  let isolatedBefore;

  function put(mark, x, y) {
    mark.style.left = `${(100 * (x + 0.5)) / width}%`;
    mark.style.top = `${(100 * (y + 0.5)) / height}%`;
  }

  function draw({ weights, x, y, removed, pins, map, labels, isolated }) {
    blend(context, weights ? dimmed : image);
    if (weights) {
      const shade = SHADES[map];
      const factor = weights.length / DARK;
      const step = STEPS / Math.log(BRIGHT / DARK);
      const shadeAt = (place) => shade[Math.min(Math.max(Math.log(weights[place] * factor) * step, 0), STEPS) | 0];
      fill(view, lines, light.pixels, shadeAt);
      light.put();
      if (map === "light") blend(light.context, lit, 1, "source-in");
      blend(context, light.canvas);
    }
    if (labels || isolated !== null) {
      if (isolated !== isolatedBefore) colour(view, classes, isolated);
      isolatedBefore = isolated;
      blend(context, classes.canvas, isolated === null ? labels : Math.max(labels, ISOLATED));
    }
    if (removed) {
      hatch(view, lines, light.pixels, removed);
      light.put();
      blend(context, light.canvas);
    }
    put(ring, x, y);
    ring.classList.toggle("around", pins.some((pin) => pin.x === x && pin.y === y));
    element.querySelectorAll(".pin").forEach((pin) => pin.remove());
    for (const pin of pins) {
      const mark = element.appendChild(document.createElement("b"));
      mark.className = `pin pin-${pin.number + 1}`;
      mark.textContent = pin.number + 1;
      put(mark, pin.x, pin.y);
    }
  }

  function pixel(event) {
    const box = canvas.getBoundingClientRect();
    const within = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
    return [
      within((event.clientX - box.left) / box.width, width),
      within((event.clientY - box.top) / box.height, height),
    ];
  }

  function tip(text, x = 0, y = 0) {
    hint.textContent = text;
    hint.classList.toggle("left", x > width / 2);
    hint.classList.toggle("up", y > height / 2);
    put(hint, x, y);
  }

  return { canvas, draw, pixel, tip };
}

/** A canvas at the picture's size, with pixels to fill and a way to put them onto it. */
export function layer({ width, height }, canvas = document.createElement("canvas")) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  return { canvas, context, pixels: new Uint32Array(image.data.buffer), put: () => context.putImageData(image, 0, 0) };
}

/** The picture with little colour and light. By blending alone: some browsers let no script read a canvas. */
function dim(view, image) {
  const [{ canvas, context }, grey] = [layer(view), layer(view)];
  blend(context, image);
  blend(grey.context, image);
  paint(grey, "saturation", "#808080");
  blend(context, grey.canvas, 1 - DIM.saturation);
  paint({ canvas, context }, "multiply", `rgb(${Array(3).fill(Math.round(255 * DIM.brightness))})`);
  return canvas;
}

/** The picture under all the light that a place can have. */
function lamplit(view, image) {
  const full = layer(view);
  blend(full.context, image);
  blend(full.context, image, 0.6, "screen");
  paint(full, "screen", LAMP);
  return full.canvas;
}

function paint({ canvas, context }, operation, colour) {
  Object.assign(context, { globalCompositeOperation: operation, fillStyle: colour });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
}

export function blend(context, source, alpha = 1, operation = "source-over") {
  Object.assign(context, { globalCompositeOperation: operation, globalAlpha: alpha });
  context.drawImage(source, 0, 0);
  Object.assign(context, { globalCompositeOperation: "source-over", globalAlpha: 1 });
}

/** Each pixel of a place in the shade of the place: blocks with edges, as the network has nothing between them. */
function fill({ width, height, grid: [, columns] }, [down, across], pixels, shadeAt) {
  for (let y = 0; y < height; y++) {
    const start = y * width;
    if (y && down[y] === down[y - 1]) pixels.copyWithin(start, start - width, start);
    else {
      for (let x = 0, last = -1, shade; x < width; x++) {
        if (across[x] !== last) shade = shadeAt(down[y] * columns + (last = across[x]));
        pixels[start + x] = shade;
      }
    }
  }
}

/** Black and white stripes on what `removed` marks. */
function hatch({ width, height, grid: [, columns] }, [down, across], pixels, removed) {
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const stripe = (x + y) % 6 < 2 ? 0xe6ffffff : 0x99000000;
      pixels[at] = removed[down[y] * columns + across[x]] ? stripe : 0;
    }
  }
}

/** The classes' colours, or those of one alone. */
export function colour({ classes, labels }, { pixels, put }, isolated) {
  const shown = classes.map(({ colour }, index) =>
    isolated === null || isolated === index ? opaque(colour.match(/\w\w/g).map((part) => parseInt(part, 16))) : 0,
  );
  labels.forEach((label, at) => (pixels[at] = shown[label]));
  put();
}

/** A colour as a canvas keeps its pixels. */
export function opaque([red, green, blue], alpha = 1) {
  return ((Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function shades(colourOf) {
  return Uint32Array.from({ length: STEPS + 1 }, (_, i) => {
    const [red, green, blue, alpha] = colourOf(i / STEPS);
    return opaque([red, green, blue], alpha);
  });
}
