// A picture of somebody's own to search with: chosen or dropped, sent once, and from then on a text in the page's address.

import { ask, find, make } from "./elements.js";

const MOST_BYTES = 16 * 2 ** 20;
const SHOWN_PX = 40;
const drawings = new Map();
let current = null;

/** A small drawing of a picture that this page has sent; null of one that came with a link. */
export function drawing(text) {
  const bitmap = drawings.get(text);
  if (!bitmap) return null;
  const canvas = make("canvas", { width: Math.max(1, Math.round((SHOWN_PX * bitmap.width) / bitmap.height)), height: SHOWN_PX, role: "img", "aria-label": "your picture" });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Call `sent` with the text of each picture that is chosen or dropped, and `say` with what happens meanwhile. */
export function onSent(sent, say) {
  const send = async (file) => {
    if (!file) return;
    current?.abort();
    const own = new AbortController();
    current = own;
    try {
      if (file.size > MOST_BYTES) throw new Error("The picture has more than 16 MiB; save it with fewer pixels.");
      say("Sending the picture\u2026");
      const { picture } = await ask("api/picture", own.signal, { method: "POST", body: file });
      const bitmap = await createImageBitmap(file).catch(() => null); // the server reads more formats than a browser
      if (own !== current) return;
      drawings.set(picture, bitmap);
      sent(picture);
    } catch (error) {
      if (own === current && error.name !== "AbortError") say(error.message, true);
    }
  };
  find("sent").addEventListener("change", () => {
    send(find("sent").files[0]);
    find("sent").value = ""; // so that the same one can be chosen again
  });
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  }
  addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // else the browser opens it in place of the page
    send(event.dataTransfer.files[0]);
  });
}
