// Elements, text that fits, numbers, and scales. All files of this folder are one script, in the order of page.py.
"use strict";

function make(tag, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function html(tag, properties = {}, parent = null) {
  const element = Object.assign(document.createElement(tag), properties);
  if (parent) parent.append(element);
  return element;
}

const ruler = document.createElement("canvas").getContext("2d");

function textWidth(text, size = 12, weight = 400) {
  ruler.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

function fitText(text, width, size = 12, weight = 400) {
  if (textWidth(text, size, weight) <= width) return text;
  const letters = Array.from(text); // a surrogate pair is one letter
  while (letters.length > 1 && textWidth(letters.join("") + "…", size, weight) > width) letters.pop();
  return letters.join("") + "…";
}

const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function formatNumber(value, digits = 4) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e13 || (size > 0 && size < 1e-3)) return trimExponent(value.toExponential(digits - 1));
  const unit = size >= 1e4 ? UNITS.find(([unit]) => size >= unit) : null;
  if (unit) return trim((value / unit[0]).toPrecision(digits)) + unit[1];
  return Number.isInteger(value) ? String(value) : trim(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1)))));
}

function trimExponent(text) {
  const [mantissa, exponent] = text.split("e");
  return `${trim(mantissa)}e${exponent.replace("+", "")}`;
}

function steps(low, high, count) {
  const raw = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

// A scale maps values to pixels: to(value), ticks(count) as [value, label], and position of a slot for what has none.
function scaleOf(axis, from, to) {
  if (axis.scale === "category") return categoryScale(axis, from, to);
  const isLog = axis.scale === "log";
  const map = isLog ? Math.log10 : (value) => value;
  let [low, high] = axis.domain;
  if (low === high) [low, high] = isLog ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const start = map(low), span = map(high) - start;
  const at = (value) => from + ((map(value) - start) / span) * (to - from);
  const back = (pixel) => { const value = start + ((pixel - from) / (to - from)) * span; return isLog ? 10 ** value : value; };
  return { to: at, back, ticks: (count) => label((isLog ? logTicks : steps)(low, high, count), axis), band: 0 };
}

function label(values, axis) {
  const shown = axis.integer ? values.filter(Number.isInteger) : values;
  return shown.map((value) => [value, axis.percent ? `${trim((value * 100).toPrecision(3))}%` : formatNumber(value)]);
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return steps(low, high, count);
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = (factors, stride) => {
    const found = [];
    for (let power = first; power <= last; power += stride) for (const factor of factors) found.push(Number(`${factor}e${power}`));
    return found.filter((value) => value >= low * 0.9999 && value <= high * 1.0001);
  };
  for (const factors of [[1, 2, 5], [1, 3]]) if (every(factors, 1).length <= Math.max(count, 3)) return every(factors, 1);
  if (decades < 1.6) return steps(low, high, count);
  return every([1], Math.max(1, Math.ceil(decades / Math.max(count, 2))));
}

function categoryScale(axis, from, to) {
  const band = (to - from) / Math.max(axis.values.length, 1);
  const at = (index) => from + (index + 0.5) * band;
  return { to: at, back: (pixel) => (pixel - from) / band - 0.5, ticks: () => axis.values.map((name, index) => [index, name]), band: Math.abs(band) };
}
