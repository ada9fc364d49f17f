"use strict";

// Charts: each spec stands in a JSON element behind its place.
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(place.nextElementSibling.textContent);
  vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false }).catch((error) => {
    place.textContent = "This chart could not be drawn: " + error.message;
    console.error(error);
  });
}

// A chart in closed details has no width: it is drawn anew once there is one.
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")));
}

// Paper shows everything; afterwards what was closed is closed again.
const opened = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
});
window.addEventListener("afterprint", () => {
  for (const details of opened.splice(0)) details.open = false;
});

// Not measured (no data-value) comes last, whichever way the others are sorted.
function compare(a, b, sign) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  const numbers = [Number(a), Number(b)];
  const both = a !== "" && b !== "" && numbers.every(Number.isFinite);
  return sign * (both ? numbers[0] - numbers[1] : a.localeCompare(b));
}

function sortBy(table, column) {
  const heads = table.tHead.rows[0].cells;
  const numeric = heads[column].classList.contains("number");
  const now = heads[column].getAttribute("aria-sort");
  const next = now === null ? (numeric ? "descending" : "ascending")
    : now === "ascending" ? "descending" : "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) =>
    compare(a.cells[column].dataset.value, b.cells[column].dataset.value, sign));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => sortBy(table, column));
  });
}

for (const input of document.querySelectorAll("input[data-filter]")) {
  const rows = Array.from(document.getElementById(input.dataset.filter).tBodies[0].rows);
  const count = input.closest(".tools").querySelector(".count");
  const show = () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = shown + " of " + rows.length + " rows";
  };
  input.addEventListener("input", show);
  show();
}
