// Side by side: a prompt of one's own is asked, and its two answers are judged like any others.

import { Refused, ask } from "./api.js";
import { Casting } from "./ballot.js";
import { forgetToken, person, showConnection, whoIsIt } from "./person.js";
import * as store from "./store.js";

const byId = (id) => document.getElementById(id);
const EVERY = 700; // milliseconds
const ASKED = "asked";

const form = byId("ask");
const prompt = byId("own-prompt");
const state = form.querySelector(".state");

const casting = new Casting({
  person,
  next: () => {
    store.remove(ASKED);
    casting.hide();
    byId("bar").hidden = false; // for undo
    open("Your vote is kept. Ask another, or undo.");
  },
  back: (item) => {
    form.hidden = true;
    casting.show(item);
  },
  standing: () => {},
  changed: (outbox) => showConnection(outbox),
});

function open(words = "") {
  form.hidden = false;
  form.querySelector("button").disabled = false;
  byId("main").setAttribute("aria-busy", "false");
  prompt.value = "";
  state.textContent = words;
  prompt.focus();
}

async function follow(asked) {
  form.hidden = false;
  prompt.value = asked.prompt;
  form.querySelector("button").disabled = true;
  byId("main").setAttribute("aria-busy", "true");
  let path = "/api/own";
  for (;;) {
    try {
      const answer = await ask(path, path === "/api/own" ? asked : { person: asked.person, ask_id: asked.ask_id });
      path = "/api/own/state";
      if (answer.stage === "done") {
        form.hidden = true;
        casting.show(answer.item);
        return;
      }
      if (answer.stage === "failed") {
        store.remove(ASKED);
        open(`No answer: ${answer.error}`);
        prompt.value = asked.prompt;
        return;
      }
      state.textContent = answer.ahead
        ? `${answer.ahead} other ${answer.ahead === 1 ? "prompt stands" : "prompts stand"} before yours.`
        : "Both models are answering. The first time they are loaded, which takes longer.";
    } catch (error) {
      if (error instanceof Refused) {
        if (path === "/api/own") {
          store.remove(ASKED);
          open(`Refused: ${error.message}.`);
          return;
        }
        path = "/api/own"; // the server was started again, and does not know of it
      } else {
        state.textContent = "Waiting for the server: it is busy, or the connection is gone.";
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!prompt.value.trim()) return;
  const asked = { ask_id: store.newId(), person: person(), prompt: prompt.value };
  store.write(ASKED, JSON.stringify(asked));
  byId("bar").hidden = true;
  follow(asked);
});

forgetToken();
whoIsIt(async () => {
  casting.outbox.send();
  const asked = JSON.parse(store.read(ASKED) ?? "null");
  if (asked && asked.person === person()) follow(asked);
  else open();
  try {
    casting.learn(await ask("/api/items", { person: person(), count: 0, held: [] }));
  } catch { /* undo then knows only what this tab has cast */ }
});
