// Figures as SVG and PNG, tables as CSV: written by the page itself, so that they need no network.

const STYLED = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linejoin",
  "stroke-linecap", "opacity", "font-size", "font-weight", "font-family", "paint-order"];

function download(name, blob) {
  const link = html("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A copy that has its styles in itself, on the page's background.
function standalone(svg) {
  const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((element, index) => {
    const style = getComputedStyle(element);
    to[index].setAttribute("style", STYLED.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
  });
  for (const extra of copy.querySelectorAll(".grip, .hot-layer")) extra.remove();
  const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
  const paper = make("rect", { x: -16, y: -16, width: width + 32, height: height + 32, fill: getComputedStyle(document.body).backgroundColor });
  copy.prepend(paper);
  copy.setAttribute("viewBox", `-16 -16 ${width + 32} ${height + 32}`);
  copy.setAttribute("width", width + 32);
  copy.setAttribute("height", height + 32);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return new XMLSerializer().serializeToString(copy);
}

function savePng(figure) {
  const text = standalone(figure.svg), image = new Image(), canvas = document.createElement("canvas");
  image.onload = () => {
    [canvas.width, canvas.height] = [image.width * 2, image.height * 2];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(`${figure.id}.png`, blob));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function addSaving(figure, element) {
  const tools = html("div", { className: "tools" }, element);
  const svg = html("button", { type: "button", textContent: "SVG", title: "save the figure as SVG" }, tools);
  svg.onclick = () => download(`${figure.id}.svg`, new Blob([standalone(figure.svg)], { type: "image/svg+xml" }));
  html("button", { type: "button", textContent: "PNG", title: "save the figure as PNG", onclick: () => savePng(figure) }, tools);
}

const valueOf = (cell) => cell.dataset.v ?? cell.textContent;

function csvCell(text) {
  // A spreadsheet would compute a text that begins like a formula.
  const plain = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

function csvOf(table) {
  return Array.from(table.rows, (row) => Array.from(row.cells, (cell) => csvCell(valueOf(cell))).join(",")).join("\r\n") + "\r\n";
}
