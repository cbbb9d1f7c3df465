"use strict";
// Everything is readable without this: it sorts and filters tables, and shows at once what browsers show on hover.
const UNITS = { k: 1e3, M: 1e6, G: 1e9, kB: 1e3, MB: 1e6, GB: 1e9 };

// The number that a cell begins with, in its unit; its text if there is none; null if nothing was measured.
function value(cell) {
  const text = (cell.firstChild?.nodeType === Node.TEXT_NODE ? cell.firstChild.data : cell.textContent).trim();
  if (text === "not run" || text === "\u2013" || text === "") return null;
  const match = /^(-?[\d.,]+(?:e[+-]?\d+)?)(?: (k|M|G|kB|MB|GB)\b)?/.exec(text);
  return match ? parseFloat(match[1].replaceAll(",", "")) * (UNITS[match[2]] ?? 1) : text;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sort(table, column) {
  const header = table.tHead.rows[0].cells[column];
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyed = [...table.tBodies[0].rows].map(row => [value(row.cells[column]), row]);
  keyed.sort(([a], [b]) => (descending && a !== null && b !== null ? compare(b, a) : compare(a, b)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function filter(table, words) {
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column));
    header.append(button);
  });
  if (table.tBodies[0].rows.length < 4) continue;
  const field = document.createElement("input");
  Object.assign(field, { type: "search", className: "filter", placeholder: "filter rows" });
  field.setAttribute("aria-label", `filter ${table.caption.textContent}`);
  field.addEventListener("input", () => filter(table, field.value.toLowerCase().split(/\s+/).filter(Boolean)));
  table.parentElement.before(field);
}

const tip = document.createElement("div");
Object.assign(tip, { className: "tip", hidden: true });
document.body.append(tip);
for (const title of document.querySelectorAll("svg g > title")) {
  const group = title.parentElement, text = title.textContent;
  title.remove(); // else the browser shows it too, a second later
  group.setAttribute("aria-label", text);
  group.addEventListener("pointermove", event => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  group.addEventListener("pointerleave", () => (tip.hidden = true));
}
