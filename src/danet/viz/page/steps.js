// The lesson's steps as markup, each a sentence, an equation and a picture, which learn.js brings to life.
//
// Letters have the colours of what they stand for. All that is put in comes from here, from words.js, or is a number.

import { say } from "./words.js";

/** What query, key and value are called. */
export const LETTERS = {
  paper: { query: "B", key: "C′", value: "D" },
  transformer: { query: "Q", key: "K", value: "V" },
};
/** The slider's least temperature and its step, as logarithms. */
export const COLDEST = -1.4;
export const TICK = 0.05;

const MULTIPLES = { 0: "0", 0.5: "½ α", 1: "α" };

/** The slider's greatest temperature, as a logarithm: well beyond √depth. */
export function hottest({ depth }) {
  return COLDEST + TICK * Math.ceil((Math.log(depth) / 2 + 1.4 - COLDEST) / TICK);
}

/** The steps that a view has, in order. */
export function steps(view, letters) {
  const pictures = { ...(view.position && positionPictures(view, letters)), ...(view.channel && channelPicture(view)) };
  const keys = view.position ? view.key.length / view.depth : 0;
  const values = { ...letters, depth: view.depth, keys, rows: view.grid[0], columns: view.grid[1] };
  const sentence = (name) => say(`learn_${name}${kindOf(name, view)}`, values);
  const step = ([name, picture]) => `<li class="step-${name}">
    <div class="words"><h3>${say(`learn_${name}_title`)}</h3><p>${sentence(name)}</p></div>
    ${math(equations(letters, view)[name])}${picture}</li>`;
  return Object.entries(pictures).map(step).join("");
}

/** DRANet's places look at centres, its channels at compact ones. */
function kindOf(name, view) {
  if (name === "energy" && view.windows) return "_centres";
  return name === "channels" && isCompact(view) ? "_compact" : "";
}

function isCompact({ channel, channel_energy }) {
  return channel_energy.length < channel.maps.length * channel.total;
}

function letter(kind, name, index) {
  return `<var class="of-${kind}">${name}<sub>${index}</sub></var>`;
}

function sum(index, term) {
  return `<span class="sum">∑<i>${index}</i></span>${term}`;
}

function equations({ query, key, value }, view) {
  const { channel } = view;
  const [features, gathered] = [letter("features", "A", "i"), letter("gathered", "E", "i")];
  const weight = (name, index) => letter("weight", name, index);
  const projected = `<var>W<sub>${query}</sub></var>${features} + <var>b<sub>${query}</sub></var>`;
  const product = `${letter("query", query, "i")} · ${letter("key", key, "j")}`;
  const products = letter("query", query, "ik") + letter("key", key, "jk");
  const power = (index) => `exp(${weight("e", index)}/<var>τ</var>)`;
  const rule = (energy) => `${weight("X", "ab")} = softmax<sub>b</sub>(${energy})`;
  const channels = letter("features", "A", "an") + letter("features", channel && isCompact(view) ? "G" : "A", "bn");
  return {
    features: `${features} ∈ ℝ<sup>C</sup>${channel ? `, <var>C</var> = ${channel.total}` : ""}`,
    query: `${letter("query", query, "i")} = ${projected}`,
    energy: `${weight("e", "ij")} = ${product} = ${sum("k", products)}`,
    softmax: `${weight("S", "ij")} = <span class="fraction"><span>${power("ij")}</span><i>/</i>
      <span>∑<sub>l</sub> ${power("il")}</span></span>`,
    gathered: `${gathered} = ${sum("j", weight("S", "ij") + letter("value", value, "j"))}`,
    gate: `${features} + <var>α</var>${gathered}`,
    channels: `${weight("e", "ab")} = ${sum("n", channels)}`,
    official: rule(`max<sub>c</sub> ${weight("e", "ac")} − ${weight("e", "ab")}`),
    paper: rule(weight("e", "ab")),
  };
}

/** An equation to be seen, and in a line of text for those who hear it. */
function math(equation) {
  const spoken = equation.replace(/<(sub|sup|i)>/g, "_").replace(/_\//g, "/").replace(/<[^>]+>/g, " ");
  return `<p class="equation" role="math" aria-label="${spoken.replace(/\s+/g, " ").trim()}">${equation}</p>`;
}

function plate(kinds, marks = "", attributes = "") {
  return `<div class="plate ${kinds}" ${attributes}><canvas></canvas>${marks}</div>`;
}

function note(key, values) {
  return `<p class="caption">${say(key, values)}</p>`;
}

function positionPictures(view, { query, key }) {
  const { position: { gates }, depth } = view;
  const ring = '<i class="ring"></i>';
  const marks = `<i class="spot"></i>${ring}`;
  const [own, other] = [letter("query", query, "i"), letter("key", key, "j")];
  const [energy, weight] = [letter("weight", "e", "ij"), letter("weight", "S", "ij")];
  const chart = (kind, of) => `<svg class="chart bars-${kind}" viewBox="0 -1 ${depth} 2" preserveAspectRatio="none"
    aria-hidden="true"><path class="axis" d="M0 0H${depth}"/><path class="of-${of}"/></svg>`;
  const swatch = (kind, name) => `<span class="named"><i class="swatch-${kind}"></i>${letter(kind, name, "i")}</span>`;
  const mark = (value, name, label) => `<button type="button" value="${value}"><b>${name}</b>${say(label)}</button>`;
  const stop = (multiple, at) => `<label><input type="radio" name="stop" value="${at}">
    <span>${MULTIPLES[multiple] ?? `${multiple} α`}</span></label>`;
  const moved = `tabindex="0" role="application" aria-label="${say("learn_point")}"`;
  const root = depth > 1 ? mark(Math.sqrt(depth), `√${depth}`, "learn_mark_transformer") : "";
  const pictures = {
    features: `${plate("of-places pointed", marks)}
      <p class="caption">${swatch("features", "A")}${say("learn_features_caption")}</p>`,
    query: `${chart("query", "query")}<p class="caption">${own} <output></output></p>`,
    energy: `${plate("pointed", marks, moved)}
      <div class="charts">${own}${chart("query", "query")}${other}${chart("key", "key")}
      <span>×</span>${chart("product", "weight")}</div>
      <p class="result" aria-live="polite">${energy} = ${say("learn_energy_mean")} <b class="energy-above"></b>,
      ${weight} = <b class="energy-weight"></b> (<span class="energy-times"></span>)</p>
      ${note("learn_energy_note", { keys: view.key.length / depth })}`,
    softmax: `${plate("of-places pointed", marks)}
      <div class="slider"><input type="range" class="heat" aria-label="τ" min="${COLDEST}" max="${hottest(view)}"
      step="${TICK}"><div class="marks">${mark(1, "1", "learn_mark_danet")}${root}</div></div>
      <p class="result"><b class="temperature"></b>, <span class="softmax-count"></span></p>
      ${note("learn_softmax_note")}`,
    gathered: `${plate("of-places pointed", marks)}
      <p class="result">${swatch("features", "A")}${swatch("gathered", "E")}<span class="gathered-at"></span></p>
      ${note("learn_gathered_caption")}`,
    gate: `${plate("", ring)}
      <form class="stops" role="radiogroup" aria-label="α">${gates.map(stop).join("")}</form>
      <p class="result"><span class="gate-share"></span> <span class="gate-changed"></span></p>
      <p class="caption"><span class="gate-label"></span> ${say("learn_gate_note")}</p>`,
  };
  const seen = ([name, markup]) => [name, `<div class="seen">${markup}</div>`];
  return Object.fromEntries(Object.entries(pictures).map(seen));
}

function channelPicture(view) {
  const { maps, rule } = view.channel;
  if (!maps.length) return {};
  const forms = equations(LETTERS.paper, view);
  const thumb = ({ index }) =>
    `<label><input type="radio" name="channel"><canvas></canvas><span>${index}</span></label>`;
  const state = (name) => `<div class="channel-${name}">${plate("of-places")}${note(`learn_channels_${name}`)}</div>`;
  const form = (name) =>
    `<div class="rule-${name}"><h4>${say(`learn_rule_${name}`)}</h4>${math(forms[name])}<ol></ol></div>`;
  const channels = `<p class="caption note">${say(`learn_trained_${rule}`)}</p>
    <div class="seen"><form class="thumbs" role="radiogroup" aria-label="${say("learn_channels_choose")}">
    ${maps.map(thumb).join("")}</form><div class="pair">${state("before")}${state("after")}</div></div>
    <div class="rules">
    <svg class="ticks" viewBox="0 0 1000 30" preserveAspectRatio="none" aria-hidden="true"><path/></svg>
    <p class="caption ends"><span class="lowest"></span><span class="highest"></span></p>
    ${form("official")}${form("paper")}</div>`;
  return { channels };
}
