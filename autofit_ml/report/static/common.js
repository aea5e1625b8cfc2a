"use strict";
// What all pages share: elements, and numbers as text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, given] of Object.entries(attributes)) {
    if (given === false || given === null || given === undefined) continue;
    if (key === "on") for (const [event, call] of Object.entries(given)) element.addEventListener(event, call);
    else element.setAttribute(key, given === true ? "" : given);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const whole = (x) => x.toLocaleString("en").replace(/,/g, "\u202f");

function short(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (Number.isInteger(x) && Math.abs(x) < 1e6) return String(x);
  const size = Math.abs(x);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
}

// Value and error with two significant digits of the error, but no more decimals than asked for.
function rounded(x, error, decimals = 6) {
  if (x === null || x === undefined) return ["–", ""];
  if (error === null || error === undefined || !(error > 0)) return [short(x), ""];
  const largest = Math.max(Math.abs(x), error);
  if (largest >= 1e7 || largest < 1e-3) return [x.toExponential(3), error.toExponential(1)];
  const places = Math.min(decimals, 1 - Math.floor(Math.log10(error)));
  if (error < 0.5 * 10 ** -decimals) return [x.toFixed(places), ""]; // too small to show here
  if (places >= 0) return [x.toFixed(places), error.toFixed(places)];
  const step = 10 ** -places;
  return [String(Math.round(x / step) * step), String(Math.round(error / step) * step)];
}
