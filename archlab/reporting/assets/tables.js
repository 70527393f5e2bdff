// Tables are sorted by a click on a title, filtered by words, and saved.

function addTools(box) {
  const table = box.querySelector("table"), body = table.tBodies[0], tools = html("div", { className: "tools" });
  for (const [index, title] of Array.from(table.tHead?.rows[0]?.cells || []).entries()) addSorting(table, title, index);
  if (body.rows.length > 12) addFilter(body, tools);
  const name = `${box.dataset.name || "table"}.csv`;
  html("button", { type: "button", textContent: "CSV", title: "save the table as CSV" }, tools).onclick = () =>
    download(name, new Blob([csvOf(table)], { type: "text/csv;charset=utf-8" }));
  if (body.rows.length > 12) box.prepend(tools);
  else box.append(tools);
  for (const row of body.rows) {
    if (!row.id.startsWith("run-")) continue;
    const t = Number(row.id.slice(4));
    row.addEventListener("pointerenter", () => lightUp(t));
    row.addEventListener("pointerleave", () => lightUp(pinned));
  }
}

function addSorting(table, title, index) {
  if (!title.textContent.trim()) return;
  const button = html("button", { type: "button" });
  button.append(...title.childNodes);
  title.append(button);
  button.onclick = () => {
    const falls = title.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
    for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", falls ? "descending" : "ascending");
    body.append(...Array.from(body.rows).sort((a, b) => compare(valueOf(a.cells[index]), valueOf(b.cells[index]), falls ? -1 : 1)));
  };
}

// Numbers as numbers and before texts, empty cells last in either order.
function compare(one, other, sign) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const [a, b] = [Number(one), Number(other)];
  if (!Number.isNaN(a) && !Number.isNaN(b)) return sign * (a - b);
  if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
  return sign * one.localeCompare(other, undefined, { numeric: true });
}

function addFilter(body, tools) {
  const count = html("span", { textContent: `${body.rows.length} rows` });
  const input = html("input", { type: "search", placeholder: "filter rows", ariaLabel: "filter rows" }, tools);
  input.oninput = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${body.rows.length} rows` : `${body.rows.length} rows`;
  };
  tools.append(count);
}
