// What the page can do beyond reading: folds that open for a link and in print, tables that are sorted and copied.
// Nothing here makes markup of text: what is shown goes through textContent.
(() => {
  "use strict";

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- folds

  function reveal(target) {
    if (!target) return;
    const inner = target.closest("section")?.id === target.id ? target.parentElement : null;
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    if (inner?.tagName === "DETAILS") inner.open = true;
    (inner || target).scrollIntoView();
  }

  const linked = () => {
    const name = decodeURIComponent(location.hash.slice(1).split("?")[0]);
    reveal(name && document.getElementById(name));
  };
  addEventListener("hashchange", linked);
  all("#contents a").forEach((a) => a.addEventListener("click", () => setTimeout(linked)));
  linked();

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));

  // ---- where one is

  const links = new Map(all("#contents a").map((a) => [a.getAttribute("href").slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      const name = entry.target.id || entry.target.querySelector("section")?.id;
      links.forEach((a, of) => (of === name ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  all("#verdict, #warnings, details.section").forEach((one) => seen.observe(one));

  // ---- tables

  const number = (text) => {
    const found = /[+\-−]?\d[\d,]*(\.\d+)?/.exec(text.replace("< ", ""));
    return found ? Number(found[0].replace("−", "-").replaceAll(",", "")) : NaN;
  };

  function sort(table, column, header) {
    const body = table.tBodies[0];
    const rising = header.getAttribute("aria-sort") === "descending";
    const rows = [...body.rows];
    const cell = (row) => row.cells[column].textContent.trim();
    const numeric = rows.some((row) => !Number.isNaN(number(cell(row)))) && column > 0;
    const compare = (a, b) => {
      const [x, y] = [cell(a), cell(b)];
      if (!numeric) return rising ? y.localeCompare(x) : x.localeCompare(y);
      const [m, n] = [number(x), number(y)];
      if (Number.isNaN(m) || Number.isNaN(n)) return Number.isNaN(m) - Number.isNaN(n); // no number: last
      return rising ? m - n : n - m;
    };
    rows.sort(compare).forEach((row) => body.append(row));
    all("th", table.tHead).forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }

  for (const table of all(".table table")) {
    [...table.tHead.rows[0].cells].forEach((th, column) => {
      const button = document.createElement("button");
      button.append(...th.childNodes);
      button.type = "button";
      button.title = "Sort by this column";
      button.addEventListener("click", () => sort(table, column, th));
      th.append(button);
    });
  }

  for (const link of all(".tools a[download]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `copy ${link.textContent}`;
    button.addEventListener("click", async () => {
      const held = decodeURIComponent(link.href.slice(link.href.indexOf(",") + 1));
      try {
        await navigator.clipboard.writeText(held);
      } catch { // a page from a disk may have no clipboard
        const area = document.createElement("textarea");
        area.value = held;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = `copy ${link.textContent}`; }, 1500);
    });
    link.after(button);
  }
})();
