// Elements made of texts. Whatever comes from a server, a file's name or a person is a text node or a property, never HTML.

export const find = (id) => document.getElementById(id);

/** An element with properties and children; texts become text nodes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A button that says what it does. */
export function button(text, act, properties = {}) {
  const made = make("button", { type: "button", ...properties }, text);
  made.addEventListener("click", act);
  return made;
}

/** No server answers. */
export class Unanswered extends Error {}

/** JSON of an address of this server; an Error with the server's sentence otherwise. */
export async function ask(address, signal, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unanswered("The server does not answer; it may have been stopped.");
  }
  if (response.status === 401) throw new Error("The server wants a token: open the address that tbps serve printed.");
  const said = await response.json().catch(() => null);
  if (!response.ok) throw new Error(said?.error ?? `The server answered ${response.status}.`);
  return said;
}

const PAUSES_MS = [500, 1000, 2000, 4000];

/** As `ask`, again and again while no server answers, which `say` is told: one that is started anew answers then. */
export async function askUntilAnswered(address, signal, say) {
  for (let turn = 0; ; turn++) {
    try {
      return await ask(address, signal);
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      say(`${error.message} Asking again\u2026`);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[Math.min(turn, PAUSES_MS.length - 1)]));
    signal?.throwIfAborted();
  }
}
