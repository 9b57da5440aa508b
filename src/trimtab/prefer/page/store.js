// What the browser keeps: the person's name, votes that wait, how long votes took. Kept apart by the file of votes.
// Where the browser keeps nothing (a private window, a full disk), this page does, as long as it lives.

const prefix = `trimtab.${document.body.dataset.key}.`;
const memory = new Map();

export function read(name) {
  try {
    return localStorage.getItem(prefix + name) ?? memory.get(name) ?? null;
  } catch {
    return memory.get(name) ?? null;
  }
}

export function write(name, value) {
  try {
    localStorage.setItem(prefix + name, value);
    memory.delete(name);
  } catch {
    memory.set(name, value);
  }
}

export function remove(name) {
  memory.delete(name);
  try { localStorage.removeItem(prefix + name); } catch { /* there is nothing to remove it from */ }
}

// The names that begin so, in their order.
export function names(beginning) {
  const found = new Set(memory.keys());
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(prefix)) found.add(key.slice(prefix.length));
    }
  } catch { /* only what this page holds */ }
  return [...found].filter((name) => name.startsWith(beginning)).sort();
}

// 128 random bits. crypto.randomUUID is there only under https or on the machine itself, and phones are elsewhere.
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
