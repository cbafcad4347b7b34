// The table: sorts on a click on a heading, filters by words, shows the chosen columns and each system's seeds.
const rows = document.getElementById("rows");
const heads = all("thead th", rows);
const groups = all("tbody", rows);

function keyOf(group, column, words) {
  const written = group.rows[0].cells[column].dataset.sort;
  if (written === undefined || written === "") return null;
  return words ? written : Number(written);
}

function sortBy(head) {
  const column = head.cellIndex;
  const words = head.dataset.kind === "words";
  const before = head.getAttribute("aria-sort");
  const first = "falling" in head.dataset ? "descending" : "ascending";
  const next = before === null ? first : before === "ascending" ? "descending" : "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const keyed = groups.map((group, place) => ({ group, place, key: keyOf(group, column, words) }));
  keyed.sort((one, other) => {
    if (one.key === null || other.key === null) return (one.key === null) - (other.key === null) || one.place - other.place;
    const order = words ? one.key.localeCompare(other.key, "en", { numeric: true }) : one.key - other.key;
    return sign * order || one.place - other.place;
  });
  rows.append(...keyed.map((each) => each.group));
}
for (const head of heads) head.querySelector("button").addEventListener("click", () => sortBy(head));

for (const button of all(".expand", rows)) {
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    for (const seed of all(".seed", button.closest("tbody"))) seed.hidden = !open;
  });
}

const filter = document.getElementById("filter");
const words = new Map(groups.map((group) => [group, group.textContent.toLowerCase()]));
filter.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const group of groups) {
    group.hidden = !wanted.every((word) => words.get(group).includes(word));
    shown += !group.hidden;
  }
  document.getElementById("count").textContent = wanted.length ? `${shown} of ${groups.length} lines` : "";
});

for (const box of all("#choose input")) {
  box.addEventListener("change", () => {
    for (const row of rows.rows) row.cells[Number(box.dataset.column)].hidden = !box.checked;
  });
}
