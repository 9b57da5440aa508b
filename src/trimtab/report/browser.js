// The browser of completions: it filters, orders and shows what the page holds as JSON, and marks the words in which
// two answers differ. Texts become text nodes, never markup. What is chosen stands in the address, to link to.
(() => {
  "use strict";

  const held = document.getElementById("answers");
  const root = document.getElementById("browser");
  if (!held || !root) return;
  const data = JSON.parse(held.textContent);
  const [TEXT, TOKENS, ENDED, SCORE, OUTCOME, SHOWS] = [0, 1, 2, 3, 4, 5];
  const A_PAGE = 10;

  const controls = Object.fromEntries([...root.querySelectorAll("[data-key]")].map((one) => [one.dataset.key, one]));
  const list = root.querySelector(".list");
  const found = root.querySelector(".found");
  let page = 0;

  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });

  for (const key of ["first", "second"]) {
    data.names.forEach((name, i) => controls[key].append(option(name, data.methods[i])));
    controls[key].value = data.names[data[key]];
  }
  data.behaviours.forEach((name, i) => controls.behaviour.append(option(String(i), name)));

  // ---- what is known of an answer

  const inTokens = data.answers.some((column) => column.some((answer) => answer && answer[TOKENS] !== null));
  root.querySelectorAll("[data-unit]").forEach((one) => { one.textContent = inTokens ? "Tokens" : "Characters"; });
  const size = (answer) => (answer ? (inTokens ? answer[TOKENS] : answer[TEXT]?.length ?? null) : null);

  // 1: the first is better; 0.5: equal; 0: the second is; null: not known.
  function better(first, second, i) {
    const [a, b] = [data.answers[first][i], data.answers[second][i]];
    if (!a || !b) return null;
    if (second === data.opponent && a[OUTCOME] !== null) return a[OUTCOME];
    if (first === data.opponent && b[OUTCOME] !== null) return 1 - b[OUTCOME];
    if (a[SCORE] !== null && b[SCORE] !== null) return a[SCORE] === b[SCORE] ? 0.5 : Number(a[SCORE] > b[SCORE]);
    return null;
  }
  const ahead = (first, second, i) => {
    const [a, b] = [data.answers[first][i], data.answers[second][i]];
    if (a && b && a[SCORE] !== null && b[SCORE] !== null) return a[SCORE] - b[SCORE];
    const won = better(first, second, i);
    return won === null ? null : won - 0.5;
  };

  // ---- which prompts

  function chosen() {
    const of = (key) => controls[key].value;
    const [first, second] = [data.names.indexOf(of("first")), data.names.indexOf(of("second"))];
    const asked = of("search").toLowerCase().split(/\s+/).filter(Boolean);
    const texts = (i) => [data.prompts[i][1], data.answers[first][i]?.[TEXT], data.answers[second][i]?.[TEXT]]
      .map((text) => (text ?? "").toLowerCase());
    const limit = (key, otherwise) => (of(key) === "" ? otherwise : Number(of(key)));
    const [least, most] = [limit("least", -Infinity), limit("most", Infinity)];
    const outcomes = {
      first: (won) => won !== null && won > 0.5, second: (won) => won !== null && won < 0.5,
      equal: (won) => won === 0.5, unknown: (won) => won === null,
    };
    const lengths = {
      longer: (a, b) => size(a) !== null && size(b) !== null && size(a) > size(b),
      shorter: (a, b) => size(a) !== null && size(b) !== null && size(a) < size(b),
      cut: (a) => a?.[ENDED] === false,
    };
    const kept = [...data.prompts.keys()].filter((i) => {
      const [a, b] = [data.answers[first][i], data.answers[second][i]];
      if (of("outcome") && !outcomes[of("outcome")](better(first, second, i))) return false;
      if (of("length") && !lengths[of("length")](a, b)) return false;
      if (of("behaviour") && !a?.[SHOWS].includes(Number(of("behaviour")))) return false;
      if (least > -Infinity || most < Infinity) {
        if (size(a) === null || size(a) < least || size(a) > most) return false;
      }
      if (!asked.length) return true;
      const searched = texts(i);
      return asked.every((word) => searched.some((text) => text.includes(word)));
    });
    const by = {
      gap: (i) => ahead(first, second, i), behind: (i) => negative(ahead(first, second, i)),
      longest: (i) => size(data.answers[first][i]), shortest: (i) => negative(size(data.answers[first][i])),
    }[of("order")];
    if (by) kept.sort((i, j) => (by(j) ?? -Infinity) - (by(i) ?? -Infinity) || i - j);
    return { first, second, kept };
  }
  const negative = (value) => (value === null ? null : -value);

  // ---- showing

  function facts(answer, won) {
    const parts = [];
    if (answer[SCORE] !== null) parts.push(`score ${answer[SCORE].toFixed(2).replace("-", "−")}`);
    if (won !== null) parts.push(won > 0.5 ? "better" : won < 0.5 ? "worse" : "equal");
    if (size(answer) !== null) parts.push(`${size(answer)} ${inTokens ? "tokens" : "characters"}`);
    if (answer[ENDED] === false) parts.push("cut");
    return parts.join(" · ");
  }

  function box(method, i, won, content) {
    const made = make("div", "answer");
    const who = make("div", "who");
    const answer = data.answers[method][i];
    who.append(make("span", "", data.methods[method]), make("span", "", answer ? facts(answer, won) : ""));
    const text = make("div", "text");
    text.tabIndex = 0;
    text.append(content ?? (answer?.[TEXT] === "" ? "(empty)" : answer?.[TEXT] ?? "(not known)"));
    made.append(who, text);
    return made;
  }

  function article(i, first, second) {
    const made = make("article", "sample");
    made.id = `prompt-${i + 1}`;
    const [key, prompt] = data.prompts[i];
    const asked = make("div", "prompt");
    const head = make("div", "label", `Prompt ${i + 1}, id ${key} `);
    const link = make("a", "", "#");
    link.href = `#prompt-${i + 1}`;
    link.append(make("span", "unseen", ` link to prompt ${i + 1}`));
    head.append(link);
    const text = make("div", "text", prompt || "(the prompt is not known)");
    text.tabIndex = 0;
    asked.append(head, text);
    const answers = make("div", "answers two");
    const [a, b] = [data.answers[first][i]?.[TEXT], data.answers[second][i]?.[TEXT]];
    const both = controls.words.checked && first !== second && a && b ? markDifferences(a, b) : null;
    const won = better(first, second, i);
    answers.append(box(first, i, won, both && both[0]));
    if (second !== first) answers.append(box(second, i, won === null ? null : 1 - won, both && both[1]));
    made.append(asked, answers);
    const others = data.names.map((_, method) => method).filter((method) => method !== first && method !== second);
    if (others.length) {
      const more = make("details", "");
      more.append(make("summary", "", `The other methods' answers (${others.length})`));
      more.addEventListener("toggle", () => {
        if (more.children.length > 1) return;
        const rest = make("div", "answers");
        others.forEach((method) => rest.append(box(method, i, null)));
        more.append(rest);
      });
      made.append(more);
    }
    return made;
  }

  function show(keepPage) {
    const { first, second, kept } = chosen();
    const pages = Math.max(1, Math.ceil(kept.length / A_PAGE));
    page = keepPage ? Math.min(page, pages - 1) : 0;
    const counts = [0, 0, 0];
    kept.forEach((i) => {
      const won = better(first, second, i);
      if (won !== null) counts[won > 0.5 ? 0 : won < 0.5 ? 2 : 1]++;
    });
    const versus = first === second || counts.every((n) => !n) ? "" :
      `; ${data.methods[first]} is better on ${counts[0]}, equal on ${counts[1]}, worse on ${counts[2]}`;
    found.textContent = `${kept.length} of ${data.prompts.length} prompts${versus}`;
    list.replaceChildren(...kept.slice(page * A_PAGE, (page + 1) * A_PAGE).map((i) => article(i, first, second)));
    root.querySelector(".pages span").textContent = `page ${page + 1} of ${pages}`;
    root.querySelector('[data-step="-1"]').disabled = page === 0;
    root.querySelector('[data-step="1"]').disabled = page >= pages - 1;
    return kept;
  }

  // ---- the address: #completions?first=dpo&search=tea, or #prompt-17

  const value = (one) => (one.type === "checkbox" ? (one.checked ? "" : "no") : one.value);
  const usual = Object.fromEntries(Object.entries(controls).map(([key, one]) => [key, value(one)]));

  function remember() {
    const asked = Object.entries(controls).filter(([key, one]) => value(one) !== usual[key]);
    const query = new URLSearchParams(asked.map(([key, one]) => [key, value(one)]));
    if (page) query.set("page", page + 1);
    try { history.replaceState(null, "", `#completions${String(query) && `?${query}`}`); } catch { /* a page without an address */ }
  }

  function recall() {
    const hash = decodeURIComponent(location.hash.slice(1));
    const one = /^prompt-(\d+)$/.exec(hash);
    if (!one && !location.hash.startsWith("#completions?")) return;
    const query = new URLSearchParams(one ? "" : location.hash.slice("#completions?".length));
    for (const [key, control] of Object.entries(controls)) {
      const asked = query.get(key) ?? usual[key];
      if (control.type === "checkbox") control.checked = asked !== "no";
      else if (control.tagName !== "SELECT" || [...control.options].some((o) => o.value === asked)) control.value = asked;
    }
    page = one ? Math.floor((Number(one[1]) - 1) / A_PAGE) : Math.max(0, Number(query.get("page") ?? 1) - 1);
    show(true);
  }

  let waiting;
  root.querySelector(".filters").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { show(false); remember(); }, 120);
  });
  root.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => {
    page += Number(button.dataset.step);
    show(true);
    remember();
    root.scrollIntoView();
  }));
  root.hidden = false;
  show(false);
  recall();
  addEventListener("hashchange", recall);
})();
