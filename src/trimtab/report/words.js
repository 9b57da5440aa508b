// The words in which two texts differ, marked: for the report's browser of completions, and for the page on which
// people judge. Texts become text nodes, never markup.
const markDifferences = (() => {
  "use strict";

  const LONGEST = 4e6; // cells of the table of two texts' words

  const pieces = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  const words = (text) => pieces(text).filter((piece) => piece.trim() !== "");

  // Which words of each stand in their longest common subsequence; null where the texts are too long for it.
  function common(a, b) {
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start++;
    let [m, n] = [a.length, b.length];
    while (m > start && n > start && a[m - 1] === b[n - 1]) { m--; n--; }
    const [rows, columns] = [m - start, n - start];
    if (rows * columns > LONGEST) return null;
    const width = columns + 1;
    const longest = new Uint16Array((rows + 1) * width);
    for (let i = rows - 1; i >= 0; i--) {
      for (let j = columns - 1; j >= 0; j--) {
        longest[i * width + j] = a[start + i] === b[start + j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    const [inA, inB] = [a.map((_, i) => i < start || i >= m), b.map((_, j) => j < start || j >= n)];
    for (let i = 0, j = 0; i < rows && j < columns;) {
      if (a[start + i] === b[start + j]) { inA[start + i] = inB[start + j] = true; i++; j++; }
      else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
      else j++;
    }
    return [inA, inB];
  }

  // Words that are not common are marked, with the white space between two of them.
  function marked(text, isCommon, className) {
    const all = pieces(text);
    let place = 0;
    const differs = all.map((piece) => (piece.trim() === "" ? null : !isCommon[place++]));
    const into = document.createDocumentFragment();
    for (let i = 0; i < all.length;) {
      const marking = differs[i] === true;
      let end = i + 1;
      while (end < all.length && (differs[end] === marking || (differs[end] === null && (differs[end + 1] === true) === marking))) end++;
      const run = all.slice(i, end).join("");
      if (!marking) into.append(run);
      else into.append(Object.assign(document.createElement("mark"), { className, textContent: run }));
      i = end;
    }
    return into;
  }

  // Both texts as nodes, words that the other lacks in a mark of class "one" and "other"; null where they are too long.
  return (a, b) => {
    const both = common(words(a), words(b));
    return both && [marked(a, both[0], "one"), marked(b, both[1], "other")];
  };
})();
