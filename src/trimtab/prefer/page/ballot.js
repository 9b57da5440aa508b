// Casting votes: buttons, keys, reasons, the time that a vote took, undo, and what is said of them.

import { Outbox } from "./outbox.js";
import * as shown from "./show.js";
import * as store from "./store.js";

const byId = (id) => document.getElementById(id);
const WORDS = {
  left: "A is better", right: "B is better", "both good": "Both good", "both bad": "Both bad", skip: "Skipped",
};
const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "both good", ArrowDown: "both bad", s: "skip",
};
const SOONEST = 250; // milliseconds: nobody reads faster, a key that bounces does
const REMEMBERED = 200; // votes that undo can go back through

// Milliseconds that something was seen: a hidden page does not count.
class Watch {
  constructor() {
    this.seen = 0;
    this.since = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.go()));
  }

  start() { this.seen = 0; this.since = null; this.go(); }
  go() { if (!document.hidden) this.since ??= performance.now(); }
  stop() { this.seen = this.milliseconds; this.since = null; }
  get milliseconds() { return Math.round(this.seen + (this.since === null ? 0 : performance.now() - this.since)); }
}

export class Casting {
  // person(): whose votes. next(item): an item was judged. back(item): it is to be judged anew. standing(answer): how
  // far the person is, as the server says. changed(): what waits to be sent.
  constructor({ person, next, back, standing, changed }) {
    Object.assign(this, { person, next, back, standing, changed });
    this.item = null;
    this.watch = new Watch();
    this.cast = []; // by this tab, the latest last: {vote_id, item}
    this.last = null; // the latest that the server knows of
    this.undone = new Set();
    this.outbox = new Outbox({
      answered: (entry, answer) => this.answered(entry, answer),
      refused: (entry, words) => this.say(`A vote could not be kept: ${words}.`),
      changed: () => this.changed(this.outbox),
    });
    this.tabs = "BroadcastChannel" in window ? new BroadcastChannel(`trimtab.${document.body.dataset.key}`) : null;
    this.tabs?.addEventListener("message", ({ data }) => this.heard(data));
    this.listen();
  }

  listen() {
    for (const button of document.querySelectorAll("[data-verdict]")) {
      button.addEventListener("click", () => this.vote(button.dataset.verdict));
    }
    byId("undo").addEventListener("click", () => this.undo());
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("keyup", (event) => { if (event.key === "d" || event.key === "D") shown.showDifferences(false); });
    addEventListener("blur", () => shown.showDifferences(false));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest?.("input:not([type=checkbox]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const acts = {
      u: () => this.undo(), r: () => shown.toggleRaw(), t: () => shown.toggleTogether(),
      d: () => shown.showDifferences(true), j: () => shown.scrollBoth(1), k: () => shown.scrollBoth(-1),
    };
    if (byId("bar").hidden || !(key in KEYS || key in acts)) return;
    event.preventDefault();
    if (event.repeat && !(key === "j" || key === "k")) return;
    if (key in KEYS) this.vote(KEYS[key]);
    else acts[key]();
  }

  show(item) {
    this.item = item;
    shown.show(item);
    byId("task").hidden = byId("bar").hidden = false;
    byId("bar").classList.remove("only-undo");
    byId("done").hidden = true;
    byId("main").dataset.item = item.id;
    byId("main").dataset.repeated = item.repeated;
    byId("main").setAttribute("aria-busy", "false");
    for (const box of document.querySelectorAll("[name=reason]")) box.checked = false;
    byId("note").value = "";
    byId("asked-title").focus({ preventScroll: true });
    this.watch.start();
  }

  hide() {
    this.item = null;
    byId("task").hidden = true;
    byId("bar").classList.add("only-undo");
    delete byId("main").dataset.item;
  }

  vote(verdict) {
    const item = this.item;
    if (!item || this.watch.milliseconds < SOONEST) return;
    const body = {
      vote_id: store.newId(), item: item.id, person: this.person(), repeated: item.repeated, verdict,
      reasons: [...document.querySelectorAll("[name=reason]:checked")].map((box) => box.value),
      note: byId("note").value, milliseconds: Math.min(this.watch.milliseconds, 86400000),
    };
    this.took(body.milliseconds);
    this.cast.push({ vote_id: body.vote_id, item });
    this.cast.splice(0, this.cast.length - REMEMBERED);
    this.item = null;
    this.tell({ type: "vote", vote_id: body.vote_id, item: item.id, repeated: item.repeated });
    this.outbox.put("vote", body);
    this.next(item);
    this.say(`${WORDS[verdict]}. ${this.item ? "Here is the next one." : ""}`);
  }

  // Takes back the latest vote: of this tab, or else the latest that the server knows of.
  undo() {
    const mine = this.cast.pop();
    const vote_id = mine?.vote_id ?? this.last?.vote_id;
    if (vote_id === undefined || this.undone.has(vote_id)) {
      this.say("There is nothing to undo.");
      return;
    }
    this.undone.add(vote_id);
    if (this.last?.vote_id === vote_id) this.last = null;
    this.tell({ type: "undo", vote_id });
    if (mine) this.back(mine.item);
    this.awaited = mine ? null : vote_id;
    this.outbox.put("undo", { person: this.person(), vote_id, undo_id: store.newId() });
    this.say("Undone: judge it again.");
  }

  answered({ kind, body }, answer) {
    if (body.person !== this.person()) return;
    if (kind === "vote" && answer.kept !== body.vote_id) {
      this.cast = this.cast.filter((one) => one.vote_id !== body.vote_id);
      this.say("That one had been judged in another tab; the first vote stays.");
    }
    if (kind === "undo" && this.awaited === body.vote_id) {
      this.awaited = null;
      if (answer.undone) this.back(answer.undone);
      else this.say("There is nothing to undo.");
    }
    this.learn(answer);
  }

  // How far the person is, from any answer.
  learn(answer) {
    this.last = answer.last && !this.undone.has(answer.last.vote_id) ? answer.last : null;
    this.standing(answer);
  }

  // Other tabs of this browser.
  tell(words) { this.tabs?.postMessage({ ...words, person: this.person() }); }

  heard(words) {
    if (words.person !== this.person()) return;
    if (words.type === "undo") {
      this.undone.add(words.vote_id);
      this.cast = this.cast.filter((one) => one.vote_id !== words.vote_id);
      if (this.last?.vote_id === words.vote_id) this.last = null;
    } else if (words.type === "vote") {
      this.last = { vote_id: words.vote_id };
      this.elsewhere?.(words);
    }
  }

  say(words) { byId("said").textContent = words; }

  // The median of the latest votes' seconds; null where there are too few.
  get pace() {
    const times = JSON.parse(store.read("times") ?? "[]").sort((a, b) => a - b);
    return times.length < 3 ? null : times[Math.floor(times.length / 2)] / 1000;
  }

  took(milliseconds) {
    const times = JSON.parse(store.read("times") ?? "[]");
    store.write("times", JSON.stringify([...times, milliseconds].slice(-21)));
  }
}
