// What is asked, as the page's address holds it: the address of a page is a permanent link to its answer, and its query string
// is that of /api/search, word for word.

const ONCE = ["q", "path", "after", "before", "top", "rerank"];
const SEVERAL = ["plus", "minus", "like", "up", "down", "picture", "camera"];
const KEY = "tbps-earlier-queries";
const MOST_KEPT = 30;

/** From a query string; what is no name of ours is left out. */
export function read(search) {
  const given = new URLSearchParams(search);
  const state = {};
  for (const name of ONCE) state[name] = given.get(name) ?? "";
  for (const name of SEVERAL) state[name] = given.getAll(name);
  return state;
}

/** The query string, without what is empty; "" where nothing is asked. */
export function write(state) {
  const given = new URLSearchParams();
  for (const name of ONCE) if (state[name]) given.set(name, state[name]);
  for (const name of SEVERAL) for (const value of state[name]) given.append(name, value);
  const text = given.toString();
  return text ? `?${text}` : "";
}

/** Whether there is anything to search with. */
export function asks(state) {
  return Boolean(state.q.trim()) || ["plus", "minus", "like", "up", "down", "picture"].some((name) => state[name].length);
}

/** Sentences of a query without their weights, those that are looked for first. */
export function sentences(given) {
  const all = [given.get("q") ?? "", ...given.getAll("plus"), ...given.getAll("minus")];
  return all.map((text) => text.replace(/\s*:\s*[0-9]*\.?[0-9]+\s*$/, "").trim()).filter(Boolean);
}

/** A query in words, for people. */
export function words(state) {
  const parts = [state.q];
  for (const text of state.plus) parts.push(`+ ${text}`);
  for (const text of state.minus) parts.push(`\u2212 ${text}`);
  for (const id of state.like) parts.push(`like picture ${id}`);
  if (state.picture.length) parts.push("like your picture");
  if (state.up.length) parts.push(`${state.up.length} thumbs up`);
  if (state.down.length) parts.push(`${state.down.length} thumbs down`);
  for (const name of ["path", "after", "before"]) if (state[name]) parts.push(`${name} ${state[name]}`);
  for (const camera of state.camera) parts.push(`camera ${camera}`);
  if (state.rerank) parts.push("re-ranked");
  return parts.filter(Boolean).join("  ");
}

/** Earlier queries as query strings, the latest first. Another program may have written anything there. */
export function earlier() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((each) => typeof each === "string").slice(0, MOST_KEPT) : [];
  } catch {
    return [];
  }
}

/** Keep a query string. Where the browser keeps nothing, nothing is kept. */
export function remember(search) {
  if (!search || search.length > 4000) return;
  const kept = [search, ...earlier().filter((each) => each !== search)].slice(0, MOST_KEPT);
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
  } catch {
    // Full, or forbidden by the browser's settings.
  }
}

/** Keep none. */
export function forget() {
  try {
    localStorage.removeItem(KEY);
  } catch {
    // Forbidden by the browser's settings: then none was kept.
  }
}
