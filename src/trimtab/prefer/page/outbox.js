// Votes on their way. Each is kept by the browser under a name of its own until the server has answered it, and is
// sent in the order in which it was cast. Every tab of this browser may send it: the server keeps a vote once.

import { Backoff, Refused, Unreachable, ask } from "./api.js";
import * as store from "./store.js";

const WAITING = "waiting.";
const REFUSED = "refused.";
const PATHS = { vote: "/api/votes", undo: "/api/undo" };

export class Outbox {
  // answered(entry, answer): the server has it. refused(entry, words): it never will. changed(): what waits, or
  // whether the server is there.
  constructor({ answered, refused, changed }) {
    Object.assign(this, { answered, refused, changed });
    this.reachable = true;
    this.backoff = new Backoff(() => this.send());
  }

  get entries() {
    return store.names(WAITING).map((name) => [name, JSON.parse(store.read(name) ?? "null")]).filter(([, entry]) => entry);
  }

  get size() { return store.names(WAITING).length; }

  // Items whose votes wait.
  get items() { return this.entries.filter(([, entry]) => entry.kind === "vote").map(([, entry]) => entry.body.item); }

  put(kind, body) {
    const last = store.names(WAITING).at(-1)?.slice(WAITING.length, WAITING.length + 16) ?? "0";
    const place = Math.max(Date.now() * 100, Number(last) + 1);
    store.write(`${WAITING}${String(place).padStart(16, "0")}.${store.newId()}`, JSON.stringify({ kind, body }));
    this.changed();
    this.send();
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    try {
      for (let [first] = this.entries; first; [first] = this.entries) await this.sendOne(...first);
      this.backoff.worked();
      this.reachable = true;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      this.reachable = false;
      this.backoff.failed();
    } finally {
      this.sending = false;
      this.changed();
    }
  }

  async sendOne(name, entry) {
    try {
      const answer = await ask(PATHS[entry.kind], entry.body);
      store.remove(name);
      this.reachable = true;
      this.answered(entry, answer);
      this.changed();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      store.write(REFUSED + name.slice(WAITING.length), JSON.stringify(entry));
      store.remove(name);
      this.refused(entry, error.message);
    }
  }
}
