"use strict";
// A click on a column's name sorts its table: numbers by value, texts by letter, what is not there last.
document.querySelectorAll("table").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent.trim();
    const numbers = [...table.tBodies[0].rows].some((row) => "order" in row.cells[column].dataset);
    const missing = (row) => numbers && !("order" in row.cells[column].dataset);
    const compare = (a, b) => numbers ? key(a) - key(b) : key(a).localeCompare(key(b), "en", { numeric: true });
    const rows = [...table.tBodies[0].rows].sort((a, b) =>
      missing(a) || missing(b) ? missing(a) - missing(b) : (down ? -1 : 1) * compare(a, b));
    table.tBodies[0].append(...rows);
  }));
});
// Paper has no clicks: what is folded is unfolded to print.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
