// Asking the server. What may go well later is told apart from what never will.

const PATIENCE = 20000; // milliseconds
const LONGEST = 8000; // between two attempts

export class Unreachable extends Error {}
export class Refused extends Error {}

export async function ask(path, body) {
  let answer, read;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout?.(PATIENCE),
    });
    read = await answer.json().catch(() => ({}));
  } catch {
    throw new Unreachable("no connection");
  }
  if (answer.ok) return read;
  const words = read.error ?? answer.statusText;
  // 401: the server wants its token, as after a new one was made; the votes wait until the page is opened with it.
  if (answer.status >= 500 || answer.status === 401) throw new Unreachable(words);
  throw new Refused(words);
}

// Waits longer each time, up to some seconds; a little at random, so that many pages do not come back at once.
export class Backoff {
  constructor(again) {
    this.again = again;
    this.failures = 0;
    addEventListener("online", () => this.now());
  }

  failed() {
    this.failures++;
    clearTimeout(this.timer);
    const wait = Math.min(LONGEST, 500 * 2 ** this.failures) * (0.75 + Math.random() / 2);
    this.timer = setTimeout(() => this.again(), wait);
  }

  worked() {
    this.failures = 0;
    clearTimeout(this.timer);
  }

  now() {
    clearTimeout(this.timer);
    this.again();
  }
}
