// The dialog with a full picture.

import { find, make } from "./elements.js";

const viewer = find("viewer");
const full = find("full");
let hits = [];
let place = 0;

/** What the dialog shows of: the hits of the answer. */
export function setHits(found) {
  hits = found;
}

/** The hit that is shown; undefined where the dialog is closed. */
export function shown() {
  return viewer.open ? hits[place] : undefined;
}

/** Draw the hit: the person alone, or the frame in which the person was found, with the box. */
function draw(hit, whole) {
  find("whole").hidden = !hit.box;
  find("whole").ariaPressed = String(whole);
  shape(hit.width_px, hit.height_px);
  full.src = `${whole ? "frame" : "picture"}/${hit.id}`;
}

/** Room for a picture of this shape, that fits into the window. */
function shape(width, height) {
  full.style.aspectRatio = `${width} / ${height}`;
  find("stage").style.width = `min(100%, ${(60 * width) / height}vh)`;
}

function showsFrame() {
  return find("whole").ariaPressed === "true";
}

/** Show the person alone, whom a map of weights may lie over. */
export function showPerson() {
  if (shown() && showsFrame()) draw(hits[place], false);
}

/** Open at a place of the hits. */
export function open(at) {
  place = at;
  const hit = hits[place];
  find("viewer-title").textContent = `${place + 1}. ${hit.path}`;
  find("viewer-status").textContent = `${hit.width_px} \u00d7 ${hit.height_px} pixels, ${hit.taken}`;
  full.alt = hit.path;
  draw(hit, false);
  find("previous").disabled = place === 0;
  find("next").disabled = place === hits.length - 1;
  if (!viewer.open) viewer.showModal();
  viewer.dispatchEvent(new Event("shown"));
}

full.addEventListener("error", () => {
  const hit = shown();
  if (!hit || full.src.endsWith(`thumbnail/${hit.id}`)) return;
  find("viewer-status").textContent = "The file is gone or has changed since it was indexed; this is its thumbnail.";
  full.src = `thumbnail/${hit.id}`;
});
full.addEventListener("load", () => showsFrame() && full.src.includes("/frame/") && shape(full.naturalWidth, full.naturalHeight));
find("whole").addEventListener("click", () => {
  draw(hits[place], !showsFrame());
  viewer.dispatchEvent(new Event("shown"));
});
find("previous").addEventListener("click", () => place > 0 && open(place - 1));
find("next").addEventListener("click", () => place < hits.length - 1 && open(place + 1));
find("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && place > 0) open(place - 1);
  else if (event.key === "ArrowRight" && place < hits.length - 1) open(place + 1);
});

/** A card's button that opens the dialog. */
export function opening(hit, at) {
  const image = make("img", { src: `thumbnail/${hit.id}`, alt: hit.path, loading: "lazy" });
  const made = make("button", { type: "button", className: "open", "aria-label": `Picture ${at + 1}: ${hit.path}` }, image);
  made.addEventListener("click", () => open(at));
  return made;
}
