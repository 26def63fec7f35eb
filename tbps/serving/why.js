// Why a picture was found: words as buttons, and where the picture answers the chosen one, drawn over it.

import { ask, button, find, make } from "./elements.js";
import { sentences } from "./state.js";
import { showPerson, shown } from "./viewer.js";

const viewer = find("viewer");
const map = find("map");
const full = find("full");
let current = null;
let drawn = null;

/** Forget what was explained of another picture. */
function clear() {
  current?.abort();
  drawn = null;
  map.hidden = true;
  find("words").replaceChildren();
  const offered = sentences(new URLSearchParams(location.search));
  find("why-line").hidden = !offered.length;
  find("sentence").replaceChildren(...offered.map((text) => new Option(text, text)));
  find("sentence-label").hidden = offered.length < 2;
}

async function explain() {
  const hit = shown();
  if (!hit) return;
  showPerson();
  current?.abort();
  const own = new AbortController();
  current = own;
  say("Asking which words count\u2026");
  try {
    const query = new URLSearchParams({ id: hit.id, sentence: find("sentence").value });
    const why = await ask(`api/why?${query}`, own.signal);
    if (own === current) show(why);
  } catch (error) {
    if (own === current && error.name !== "AbortError") say(error.message);
  }
}

function say(text) {
  find("viewer-status").textContent = text;
}

function show(why) {
  const most = Math.max(...why.words.map((word) => Math.abs(word.adds ?? 0)), 1e-9);
  const items = why.words.map((word) => {
    const adds = word.adds === null ? "" : signed(word.adds);
    const made = button(word.word, () => choose(why, word, made), {
      "aria-pressed": "false",
      className: word.adds < 0 ? "less" : "also",
      disabled: word.map === null,
    });
    made.style.borderBottomWidth = `${1 + Math.round((5 * Math.abs(word.adds ?? 0)) / most)}px`;
    return make("li", {}, made, make("small", {}, adds));
  });
  find("words").replaceChildren(...items);
  const parts = [`${why.kind === "matching" ? "Matching" : "Similarity"} ${why.score.toFixed(3)}. Below each word is what it adds.`];
  if (why.words.every((word) => word.map === null)) parts.push("This method says nothing about parts of the picture.");
  else parts.push("Choose a word to see where the picture answers it.");
  if (why.unread) parts.push(`${why.unread} words are not read.`);
  say(parts.join(" "));
}

function signed(number) {
  return `${number < 0 ? "\u2212" : "+"}${Math.abs(number).toFixed(3)}`;
}

function choose(why, word, pressed) {
  const again = pressed.ariaPressed === "true";
  for (const each of find("words").querySelectorAll("button")) each.ariaPressed = "false";
  map.hidden = again;
  drawn = again ? null : word.map;
  if (again) return;
  pressed.ariaPressed = "true";
  draw();
  const where = place(word.map);
  map.setAttribute("aria-label", `Most of "${word.word}" is at the ${where}.`);
  say(`"${word.word}"${word.adds === null ? "" : ` adds ${signed(word.adds)}`}; the picture answers it most at the ${where}.`);
}

/** In words, where the largest weight lies. */
function place(rows) {
  let best = [0, 0];
  rows.forEach((row, y) => row.forEach((weight, x) => { if (weight > rows[best[0]][best[1]]) best = [y, x]; }));
  const third = (at, of, names) => names[Math.min(2, Math.floor((3 * (at + 0.5)) / of))];
  const across = third(best[1], rows[0].length, ["left", "middle", "right"]);
  return `${third(best[0], rows.length, ["top", "middle", "bottom"])} ${across}`.replace("middle middle", "middle");
}

/** Red where weights are large, the picture as it is where they are 0. */
function draw() {
  if (!drawn || !full.clientWidth) return;
  const small = new OffscreenCanvas(drawn[0].length, drawn.length);
  const colours = new ImageData(small.width, small.height);
  drawn.flat().forEach((weight, patch) => colours.data.set([255, 40, 0, Math.round(200 * weight)], 4 * patch));
  small.getContext("2d").putImageData(colours, 0, 0);
  map.width = full.clientWidth;
  map.height = full.clientHeight;
  const context = map.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, map.width, map.height);
}

viewer.addEventListener("shown", clear);
full.addEventListener("load", draw);
addEventListener("resize", draw);
find("why").addEventListener("click", explain);
find("sentence").addEventListener("change", explain);
