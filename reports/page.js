"use strict";

// A gallery shows the cards of the chosen category and outcomes. Without this script it shows all.
for (const form of document.querySelectorAll("form.filter")) {
  const cards = [...form.nextElementSibling.children];
  const apply = () => {
    const outcomes = [...form.querySelectorAll("input:checked")].map((box) => box.value);
    const category = form.elements.category?.value ?? "";
    for (const card of cards) {
      const { outcome, category: own } = card.dataset;
      card.hidden = !outcomes.includes(outcome) || (category !== "" && category !== own);
    }
    form.querySelector("output").value = `${cards.filter((card) => !card.hidden).length} shown`;
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  apply();
}

// A click on a column's head sorts by it: the best first, then the other way round; what is not known stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  for (const [column, head] of heads.entries()) {
    head.querySelector("button").addEventListener("click", () => {
      const first = head.dataset.first ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const [n, m] = [Number(x), Number(y)];
        return sign * (Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  }
}
