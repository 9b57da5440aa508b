// Texts on the page: rendered or raw, the words that differ, panes that scroll together. Nothing of a text becomes
// markup here but what the server rendered, in which markup is escaped.

/* global markDifferences */
import * as store from "./store.js";

const byId = (id) => document.getElementById(id);
const panes = { prompt: byId("prompt"), left: byId("left"), right: byId("right") };

const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

let item = null;
let raw = store.read("raw") === "yes";
let differing = false;
let together = store.read("together") !== "no";

function content(text) {
  const parts = [];
  if (text.note) parts.push(make("p", "soft", text.note));
  if (raw || text.html === null) {
    parts.push(make("div", "raw", text.raw));
  } else {
    const made = make("div", "markdown");
    made.innerHTML = text.html;
    parts.push(made);
  }
  return parts;
}

function prompt({ turns }) {
  if (turns.length === 1) return content(turns[0]);
  return turns.flatMap((turn) => [make("h3", "role", turn.role), ...content(turn)]);
}

function draw() {
  if (!item) return;
  const marked = differing ? markDifferences(item.left.raw, item.right.raw) : null;
  panes.prompt.replaceChildren(...prompt(item.prompt));
  ["left", "right"].forEach((side, i) => {
    const parts = marked ? [make("div", "raw")] : content(item[side]);
    if (marked) parts[0].append(marked[i]);
    else if (differing) parts.unshift(make("p", "soft", "Too long to be compared word by word."));
    panes[side].replaceChildren(...parts);
  });
}

export function show(next) {
  item = next;
  differing = false;
  press("differences", false);
  enlarge(null);
  draw();
  Object.values(panes).forEach((pane) => pane.scrollTo(0, 0));
}

const press = (id, on) => byId(id).setAttribute("aria-pressed", String(on));

export function toggleRaw() {
  raw = !raw;
  store.write("raw", raw ? "yes" : "no");
  press("raw", raw);
  keepingPlace(draw);
}

export function showDifferences(on) {
  if (differing === on) return;
  differing = on;
  press("differences", on);
  keepingPlace(draw);
}

export function toggleTogether() {
  together = !together;
  store.write("together", together ? "yes" : "no");
  press("together", together);
}

// How far down a pane is: 0 at its top, 1 at its end.
const share = (pane) => pane.scrollTop / Math.max(1, pane.scrollHeight - pane.clientHeight);
const follow = (pane, to) => { pane.scrollTop = to * (pane.scrollHeight - pane.clientHeight); };

function keepingPlace(change) {
  const both = [panes.left, panes.right].map((pane) => [pane, share(pane)]);
  change();
  both.forEach(([pane, to]) => follow(pane, to));
}

export function scrollBoth(pages) {
  for (const pane of [panes.left, panes.right]) pane.scrollBy(0, pages * pane.clientHeight * 0.8);
}

// The pane that a person moves leads; the scrolling of the other that follows moves nothing.
let leads = null;
for (const [pane, other] of [[panes.left, panes.right], [panes.right, panes.left]]) {
  for (const type of ["pointerdown", "pointerenter", "wheel", "touchstart", "keydown", "focus"]) {
    pane.addEventListener(type, () => { leads = pane; }, { passive: true });
  }
  pane.addEventListener("scroll", () => {
    if (together && (leads ?? panes.left) === pane) follow(other, share(pane));
  }, { passive: true });
}

function enlarge(side) {
  byId("task").dataset.grown = side ?? "";
  for (const button of document.querySelectorAll(".grow")) {
    button.setAttribute("aria-pressed", String(button.dataset.grows === side));
  }
}

for (const button of document.querySelectorAll(".grow")) {
  button.addEventListener("click", () => {
    enlarge(button.getAttribute("aria-pressed") === "true" ? null : button.dataset.grows);
  });
}

byId("raw").addEventListener("click", toggleRaw);
byId("together").addEventListener("click", toggleTogether);
press("raw", raw);
press("together", together);

const held = byId("differences");
held.addEventListener("pointerdown", (event) => {
  held.setPointerCapture(event.pointerId);
  showDifferences(true);
});
for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) {
  held.addEventListener(type, () => showDifferences(false));
}
held.addEventListener("contextmenu", (event) => event.preventDefault()); // what a long touch would open
held.addEventListener("click", (event) => {
  if (event.detail === 0) showDifferences(!differing); // by a keyboard or a screen reader, which cannot hold
});
