// The page on which people judge: it holds a few items ahead, so that voting goes on while the connection is gone.

import { Backoff, Refused, ask } from "./api.js";
import { Casting } from "./ballot.js";
import { forgetToken, person, showConnection, showProgress, whoIsIt } from "./person.js";

const byId = (id) => document.getElementById(id);
const AHEAD = 6; // items that the page holds beside the one it shows
const FEW = 4;

let ahead = [];
let standing = { voted: 0, left: 0 };
let filling = false;
let exhausted = false;

const casting = new Casting({
  person,
  next: () => advance(),
  back: (item) => {
    const now = casting.item;
    ahead = ahead.filter((one) => one.id !== item.id);
    if (now && now.id !== item.id) ahead.unshift(now);
    casting.show(item);
  },
  standing: (answer) => { standing = answer; progress(); },
  changed: (outbox) => { showConnection(outbox); progress(); },
});
casting.elsewhere = ({ item, repeated }) => {
  const other = (one) => one.id !== item || one.repeated !== repeated;
  ahead = ahead.filter(other);
  if (casting.item && !other(casting.item)) {
    casting.item = null;
    casting.say("That one was judged in another tab.");
    advance();
  }
};
const backoff = new Backoff(() => fill());

// Votes that wait are counted as what they will be.
function counted() {
  const waiting = casting.outbox.items.length;
  return { voted: standing.voted + waiting, left: Math.max(0, standing.left - waiting) };
}

function progress() {
  if (!person()) return;
  showProgress(counted(), casting.pace);
  if (!byId("done").hidden) sayHowMany();
}

function sayHowMany() {
  const { voted } = counted();
  byId("done").querySelector("p").textContent = `You have judged ${voted} item${voted === 1 ? "" : "s"}.`;
}

function advance() {
  const next = ahead.shift();
  if (next) casting.show(next);
  else casting.hide();
  if (ahead.length < FEW) fill();
}

async function fill() {
  if (filling || !person()) return;
  filling = true;
  try {
    const held = [casting.item?.id, ...ahead.map((one) => one.id), ...casting.outbox.items].filter(Boolean);
    const answer = await ask("/api/items", { person: person(), count: AHEAD - ahead.length, held: [...new Set(held)] });
    const known = new Set([casting.item?.id, ...ahead.map((one) => one.id), ...casting.outbox.items]);
    ahead.push(...answer.items.filter((one) => !known.has(one.id)));
    exhausted = answer.items.length === 0;
    casting.learn(answer);
    backoff.worked();
    casting.outbox.reachable = true;
    if (!casting.item && ahead.length) advance();
    else if (!casting.item) done();
  } catch (error) {
    if (error instanceof Refused) {
      casting.say(`The server refuses: ${error.message}.`);
      return;
    }
    casting.outbox.reachable = false;
    backoff.failed();
    if (!casting.item) casting.say("No connection: the next item comes once it is back.");
  } finally {
    filling = false;
    showConnection(casting.outbox);
  }
}

function done() {
  if (!exhausted) return;
  casting.hide();
  byId("main").setAttribute("aria-busy", "false");
  byId("done").hidden = false;
  sayHowMany();
  byId("bar").hidden = false; // undo goes on
  byId("done-title").focus({ preventScroll: true });
}

byId("again").addEventListener("click", () => fill());
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
forgetToken();
whoIsIt(async () => {
  await casting.outbox.send(); // what waits from before comes first: undo goes back from there
  fill();
});
