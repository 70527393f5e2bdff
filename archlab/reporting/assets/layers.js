// A model as a strip of its layers, from input to output; layers that are alike have one color and one letter.

function drawLayers(figure) {
  const { spec, svg, width } = figure;
  const label = Math.max(...spec.rows.map((row) => textWidth(row.label, 13, 600))), beside = width > 620;
  const left = beside ? Math.ceil(label) + 14 : 0;
  let y = 4;
  for (const row of spec.rows) {
    make("text", { x: 0, y: beside ? y + 22 : y + 12, class: "title", style: "font-size:13px" }, svg, row.label);
    if (!beside) y += 18;
    y = drawStrip(figure, row, left, y, width - left) + 10;
  }
  figure.boxes.push({ x: left, y: 0, width: width - left, height: y, left: 0, right: width });
  return y;
}

function drawStrip(figure, row, left, y, width) {
  const height = 34, ends = row.ends.map((name) => fitText(name, width / 3, 12)), first = textWidth(ends[0]) + 14, last = textWidth(ends[1]) + 14;
  const most = Math.max(1, Math.floor((width - first - last) / 13)), each = Math.min(44, Math.max(13, (width - first - last) / Math.min(row.blocks.length, most)));
  let x = left;
  const end = (name, wide) => {
    make("rect", { x, y, width: wide, height, rx: 4, class: "block end" }, figure.svg);
    make("text", { x: x + wide / 2, y: y + 21, "text-anchor": "middle" }, figure.svg, name);
    x += wide;
  };
  end(ends[0], first);
  for (const kind of row.blocks) {
    if (x + each > left + width + 0.5) { x = left; y += height + 4; }
    make("rect", { x: round(x), y, width: round(each), height, rx: 4, class: `block swatch mark c${kind % 8}` }, figure.svg);
    make("text", { x: round(x + each / 2), y: y + 22, "text-anchor": "middle", class: "on" }, figure.svg, figure.spec.letters[kind]);
    x += each;
  }
  if (x + last > left + width + 0.5) { x = left; y += height + 4; }
  end(ends[1], last);
  return y + height;
}
