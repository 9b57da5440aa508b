// Whose votes these are, whether the server is there, and how far the person is.

import * as store from "./store.js";

const byId = (id) => document.getElementById(id);

// Sides follow from the name: items that were fetched under one are voted on under the same, whatever another tab says.
let who = null;
export const person = () => who;

// Calls begin() once the person has said a name, now or earlier.
export function whoIsIt(begin) {
  const form = byId("who");
  const name = byId("name");
  const rename = byId("rename");
  const known = store.read("person");
  const go = () => {
    who = store.read("person");
    form.hidden = true;
    rename.hidden = false;
    rename.textContent = who;
    rename.setAttribute("aria-label", `You are ${who}; change it`);
    rename.title = "Change your name";
    begin();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const said = name.value.normalize("NFC").split(/\s+/).filter(Boolean).join(" ");
    if (!said) {
      form.querySelector(".wrong").textContent = "A name has letters.";
      return;
    }
    store.write("person", said);
    store.remove("times");
    go();
  });
  rename.addEventListener("click", () => {
    store.remove("person");
    location.reload();
  });
  if (known) {
    go();
    return;
  }
  form.hidden = false;
  byId("main").setAttribute("aria-busy", "false");
  name.focus();
}

addEventListener("storage", () => { if (who !== null && store.read("person") !== who) location.reload(); });

export function showConnection(outbox) {
  const waiting = outbox.size;
  const votes = waiting === 1 ? "1 vote waits" : `${waiting} votes wait`;
  const words = outbox.reachable ? "" : waiting ? `No connection: ${votes} here and will be sent.` : "No connection.";
  const shown = byId("connection");
  if (shown.textContent !== words) shown.textContent = words;
  document.body.dataset.waiting = waiting;
  document.body.dataset.reachable = outbox.reachable;
}

const about = (seconds) => {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "< 1 min";
  return minutes < 90 ? `~${minutes} min` : `~${Math.round(minutes / 60)} h`;
};

export function showProgress({ voted, left }, pace) {
  const shown = byId("progress");
  shown.hidden = false;
  const bar = shown.querySelector("progress");
  [bar.max, bar.value] = [Math.max(1, voted + left), voted];
  const time = pace !== null && left ? ` · ${about(left * pace)}` : "";
  shown.querySelector("span").textContent = `${voted} judged · ${left} left${time}`;
}

// The token has done its work in the first request; it need not stand in the address, or in a picture of the screen.
export function forgetToken() {
  const here = new URL(location.href);
  if (!here.searchParams.has("token")) return;
  here.searchParams.delete("token");
  history.replaceState(null, "", here);
}
