// The page: what is typed becomes a query, the query becomes the page's address and the server's answer is drawn.

import { askUntilAnswered, button, find, make } from "./elements.js";
import { drawing, onSent } from "./sending.js";
import { asks, earlier, forget, read, remember, words, write } from "./state.js";
import { opening, setHits } from "./viewer.js";
import "./why.js";

const TYPING_MS = 300;
const RERANKED = "32";
const FIELDS = ["q", "path", "after", "before", "top"];

let state = read(location.search);
let current = null;
let timer = 0;

/** Search after a change. kept: the change is a step that "back" takes back, and a query to remember. */
function changed(kept) {
  clearTimeout(timer);
  const search = write(state);
  if (search !== location.search) {
    const address = search || location.pathname;
    if (kept) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }
  if (kept && asks(state)) remember(search);
  draw();
  return answer();
}

/** Ask the server; an answer that a later question has overtaken is not drawn. */
async function answer() {
  current?.abort();
  const own = new AbortController();
  current = own;
  if (!asks(state)) {
    show({ hits: [], remarks: [] });
    say("Type whom you look for.");
    return;
  }
  say("Searching\u2026");
  try {
    const found = await askUntilAnswered(`api/search${write(state)}`, own.signal, (text) => own === current && say(text, true));
    if (own !== current) return;
    show(found);
    const took = Math.max(1, Math.round(1000 * found.seconds));
    say(`${found.hits.length} of ${found.pictures.toLocaleString("en")} pictures, in ${took} ms.`);
  } catch (error) {
    if (own !== current || error.name === "AbortError") return;
    show({ hits: [], remarks: [] });
    say(error.message, true);
  }
}

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

function show(found) {
  setHits(found.hits);
  find("remarks").replaceChildren(...found.remarks.map((remark) => make("li", {}, remark)));
  find("results").replaceChildren(...found.hits.map(card));
}

function card(hit, place) {
  const id = String(hit.id);
  const score = hit.score === null ? "" : `, matching ${hit.score.toFixed(3)}`;
  const thumb = (name, sign, says) =>
    button(sign, () => toggle(name, id), { "aria-label": says, title: says, "aria-pressed": String(state[name].includes(id)) });
  return make(
    "li",
    {},
    opening(hit, place),
    make("span", {}, make("b", {}, `${place + 1}`), ` ${hit.similarity.toFixed(3)}${score}`),
    make("small", { className: "path" }, hit.path),
    make("small", {}, hit.camera ? `${hit.taken}, ${hit.camera}` : hit.taken),
    make(
      "div",
      { className: "buttons" },
      button("More like this", () => alike(id), { "aria-label": `More like picture ${place + 1}` }),
      thumb("up", "\u25B2 fits", `Picture ${place + 1} fits`),
      thumb("down", "\u25BC not", `Picture ${place + 1} does not fit`),
    ),
  );
}

/** Thumbs: a second click takes one back, and up ends down. */
function toggle(name, id) {
  const other = name === "up" ? "down" : "up";
  const had = state[name].includes(id);
  state[name] = had ? state[name].filter((each) => each !== id) : [...state[name], id];
  state[other] = state[other].filter((each) => each !== id);
  changed(true);
}

function alike(id) {
  state = { ...read(""), path: state.path, camera: state.camera, after: state.after, before: state.before, top: state.top };
  state.like = [id];
  changed(true);
  find("results").focus();
}

/** Draw what is asked into the fields and the list of parts. */
function draw() {
  for (const name of FIELDS) {
    if (document.activeElement !== find(name)) find(name).value = name === "top" ? state.top || "20" : state[name];
  }
  const cameras = [...find("camera").options].map((option) => option.value);
  for (const camera of state.camera) if (!cameras.includes(camera)) find("camera").append(new Option(camera, camera));
  find("camera").value = state.camera[0] ?? "";
  find("rerank").checked = Boolean(state.rerank) && state.rerank !== "0";
  if (state.path || state.after || state.before || state.camera.length || state.rerank) find("filters").open = true;
  const signs = { plus: ["+", "also"], minus: ["\u2212", "less"], like: ["like", "also"], up: ["\u25B2 fits", "also"], down: ["\u25BC not", "less"], picture: ["like your picture", "also"] };
  const parts = Object.entries(signs).flatMap(([name, [sign, style]]) =>
    state[name].map((value, place) => part(name, sign, style, value, place)),
  );
  find("parts").replaceChildren(...parts);
  const past = earlier().map((search) => {
    const again = button(words(read(search)), () => {
      state = read(search);
      changed(true);
    });
    return make("li", {}, again);
  });
  find("history").replaceChildren(...past);
  find("forget").hidden = !past.length;
  document.title = asks(state) ? `${words(state).slice(0, 80)} - search` : "Search pictures";
}

function part(name, sign, style, value, place) {
  const own = name === "picture";
  const listed = !own && name !== "plus" && name !== "minus" && /^[0-9]+$/.test(value);
  const pictured = listed ? [make("img", { src: `thumbnail/${value}`, alt: `picture ${value}` })] : own ? [drawing(value)].filter(Boolean) : [];
  const text = listed || own ? sign : `${sign} ${value}`;
  const away = button("\u00d7", () => {
    state[name] = state[name].filter((_, other) => other !== place);
    changed(true);
    find("q").focus();
  }, { "aria-label": own ? "Leave out your picture" : `Leave out ${sign} ${listed ? `picture ${value}` : value}` });
  return make("li", {}, make("span", { className: style }, text), ...pictured, away);
}

function add(name) {
  const text = find("more").value.trim();
  if (!text) {
    find("more").focus();
    return;
  }
  find("more").value = "";
  state[name] = [...state[name], text];
  changed(true);
}

function readFields() {
  for (const name of FIELDS) state[name] = find(name).value;
  if (state.top === "20") state.top = "";
  state.camera = find("camera").value ? [find("camera").value] : [];
  state.rerank = find("rerank").checked ? RERANKED : "";
}

find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  readFields();
  changed(true);
});
for (const name of ["q", "path"]) {
  find(name).addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      readFields();
      changed(false);
    }, TYPING_MS);
  });
}
for (const name of ["camera", "after", "before", "top", "rerank"]) {
  find(name).addEventListener("change", () => {
    readFields();
    changed(true);
  });
}
find("more").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // else the form is sent without it
  add("plus");
});
find("plus").addEventListener("click", () => add("plus"));
find("minus").addEventListener("click", () => add("minus"));
find("forget").addEventListener("click", () => {
  forget();
  draw();
});
onSent((picture) => {
  state.picture = [picture];
  changed(true);
}, say);
addEventListener("popstate", () => {
  state = read(location.search);
  find("q").value = state.q;
  draw();
  answer();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) || find("viewer").open) return;
  event.preventDefault();
  find("q").focus();
});

async function begin() {
  find("q").value = state.q;
  draw();
  const answered = answer();
  try {
    const about = await askUntilAnswered("api/about", undefined, () => {});
    find("index-name").textContent = `${about.pictures.toLocaleString("en")} pictures of ${about.name}`;
    const known = [...find("camera").options].map((option) => option.value);
    const more = about.cameras.filter((camera) => !known.includes(camera));
    find("camera").append(...more.map((camera) => make("option", { value: camera }, camera)));
    find("rerank-label").hidden = !about.reranks;
    find("blur-note").hidden = !about.blurs;
    draw();
  } catch (error) {
    say(error.message, true);
  }
  await answered;
}

begin();
