// Horizontal bars: names beside them, or above them where the page is narrow, so that every name is whole.

function drawBars(figure) {
  const { spec, svg, width } = figure, top = drawLegend(svg, spec.legend || [], width);
  const longest = Math.max(...spec.rows.map((row) => textWidth(row.label, 13)));
  const above = longest > width * 0.36, left = above ? 0 : Math.ceil(longest) + 12;
  const right = Math.max(...spec.rows.map((row) => textWidth(row.text, 13))) + 14;
  const most = Math.max(...spec.rows.map((row) => row.hi ?? row.value), 1e-12), space = Math.min(width - left - right, 720);
  const each = above ? 44 : 30, box = { x: left, y: top, width: space, height: each * spec.rows.length, left: 0, right: width };
  const to = (value) => left + (value / most) * space;
  spec.rows.forEach((row, index) => {
    const y = top + index * each + (above ? 18 : 4);
    const name = above ? { x: 0, y: y - 5 } : { x: left - 10, y: y + 14, "text-anchor": "end" };
    make("text", { ...name, class: "name" }, svg, fitText(row.label, above ? width : left - 10, 13));
    figure.add(make("rect", { x: left, y, width: Math.max(to(row.value) - left, 1), height: 18, class: `bar mark ${row.c}` }, svg), row.t ?? null);
    if (row.hi !== undefined) make("path", { d: `M${to(row.lo)},${y + 9}H${to(row.hi)}`, class: "tick" }, svg);
    make("text", { x: to(row.hi ?? row.value) + 7, y: y + 14, class: "value" }, svg, row.text);
  });
  figure.boxes.push(box);
  if (spec.label) make("text", { x: left, y: top + box.height + 14, class: "axis" }, svg, fitText(spec.label, width - left));
  return top + box.height + (spec.label ? 22 : 4);
}
