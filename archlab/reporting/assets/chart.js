// Panels with an x and a y axis: lines, bands, intervals, dots, rules. One figure is one picture, however many panels.

function drawChart(figure) {
  const { spec, svg, width } = figure;
  const gap = 36, columns = Math.max(1, Math.min(spec.panels.length, spec.columns || 4, Math.floor((width + gap) / ((spec.min_width || 330) + gap))));
  const wide = (width - gap * (columns - 1)) / columns;
  let top = drawLegend(svg, spec.legend || [], width);
  for (let start = 0; start < spec.panels.length; start += columns) {
    const row = spec.panels.slice(start, start + columns);
    const heights = row.map((panel, index) => drawPanel(figure, panel, (wide + gap) * index, top, wide));
    top += Math.max(...heights) + 14;
  }
  return top;
}

function panelHeight(panel, spec, width) {
  if (panel.y.scale === "category") return Math.max(60, panel.y.values.length * (panel.row || 30));
  return spec.height || Math.max(220, Math.min(400, width * 0.5));
}

function drawPanel(figure, panel, left, top, width) {
  const group = make("g", { class: "panel" }, figure.svg), height = panelHeight(panel, figure.spec, width);
  if (panel.title) make("text", { x: left, y: top + 14, class: "title" }, group, fitText(panel.title, width, 14, 600));
  const names = panel.marks.filter((mark) => mark.m === "line" && mark.label);
  const right = names.length ? Math.min(width * 0.34, Math.max(...names.map((mark) => textWidth(mark.label, 12, 600)))) + 14 : 10;
  const x = left + leftMargin(panel.y, height, width), y = top + (panel.title ? 24 : 0) + (panel.y.label ? 28 : 8);
  const box = { x, y, width: left + width - right - x, height, left, right: left + width };
  const down = panel.y.reverse || panel.y.scale === "category";
  const sy = scaleOf(panel.y, down ? y : y + height, down ? y + height : y), sx = scaleOf(panel.x, x, x + box.width);
  drawYAxis(group, panel.y, sy, box);
  drawXAxis(group, panel.x, sx, box);
  const marks = make("g", { "clip-path": `url(#${clip(figure, box)})` }, group);
  const here = { figure, panel, group: marks, labels: group, box, sx, sy, places: new Places(box), ends: [] };
  for (const mark of panel.marks) MARKS[mark.m](here, mark);
  writeEnds(here);
  figure.boxes.push(box);
  return y - top + height + (panel.x.label ? 42 : 24);
}

function clip(figure, box) {
  const id = `${figure.id}-clip-${figure.boxes.length}`, shape = make("clipPath", { id }, figure.svg);
  make("rect", { x: box.x - 7, y: box.y - 7, width: box.width + 14, height: box.height + 14 }, shape);
  return id;
}

const MARKS = {
  line(here, mark) {
    const at = mark.x.map((value, index) => [round(here.sx.to(value)), round(here.sy.to(mark.y[index]))]);
    const d = at.map(([x, y], index) => {
      if (index === 0) return `M${x},${y}`;
      return mark.steps ? `H${x}V${y}` : `L${x},${y}`;
    }).join("");
    here.figure.add(make("path", { d, class: `line mark ${mark.c}` }, here.group), mark.t);
    if (mark.c.includes("pruned") && at.length) drawDot(here.group, ...at.at(-1), mark.c, "hollow", 2.5);
    if (!mark.silent) at.forEach(([x, y], index) => here.figure.hit(here, x, y, mark.t, mark.x[index], mark.y[index], mark.name || mark.label));
    if (mark.label && at.length) here.ends.push({ at: at.at(-1), label: mark.label, c: mark.c, t: mark.t });
  },

  band(here, mark) {
    const up = mark.x.map((value, index) => `${round(here.sx.to(value))},${round(here.sy.to(mark.hi[index]))}`);
    const down = mark.x.map((value, index) => `${round(here.sx.to(value))},${round(here.sy.to(mark.lo[index]))}`).reverse();
    make("path", { d: `M${up.join("L")}L${down.join("L")}Z`, class: `band mark ${mark.c}` }, here.group);
  },

  interval(here, mark) {
    const flat = here.panel.y.scale === "category";
    mark.at.forEach((value, index) => {
      const [a, b] = [mark.lo[index], mark.hi[index]].map((end) => round((flat ? here.sx : here.sy).to(end)));
      const offset = (mark.offset || 0) * 9;
      const across = round((flat ? here.sy : here.sx).to(value)) + offset;
      make("path", { d: flat ? `M${a},${across}H${b}` : `M${across},${a}V${b}`, class: `interval mark ${mark.c}` }, here.group);
    });
  },

  dot(here, mark) {
    const spread = mark.swarm ? swarm(here, mark) : null;
    mark.x.forEach((value, index) => {
      const t = mark.t ? mark.t[index] : null, move = (mark.offset || 0) * 9;
      const flat = here.panel.y.scale === "category";
      const x = here.sx.to(value) + (flat ? 0 : move), y = here.sy.to(mark.y[index]) + (spread ? spread[index] : flat ? move : 0);
      here.figure.add(drawDot(here.group, x, y, mark.c, mark.shape, mark.size), t);
      here.places.dots.push([x - 4, y - 4, x + 4, y + 4]);
      here.figure.hit(here, x, y, t, value, mark.y[index], mark.names ? mark.names[index] : mark.name);
    });
    if (mark.labels) mark.labels.forEach((text, index) => here.places.write(here.labels, text, here.sx.to(mark.x[index]), here.sy.to(mark.y[index]), mark.c));
  },

  rule(here, mark) {
    const { box } = here, isFlat = mark.y !== undefined;
    const at = round(isFlat ? here.sy.to(mark.y) : here.sx.to(mark.x));
    make("path", { d: isFlat ? `M${box.x},${at}h${box.width}` : `M${at},${box.y}v${box.height}`, class: `rule mark ${mark.c}` }, here.group);
    if (!mark.label) return;
    const text = fitText(mark.label, box.width), wide = textWidth(text, 12);
    const x = isFlat ? box.x + box.width - wide - 2 : Math.min(at + 5, box.x + box.width - wide), y = isFlat ? at - 5 : box.y + 10;
    here.places.labels.push([x, y - 11, x + wide, y + 3]);
    make("text", { x: round(x), y: round(y), class: `halo rule-label ${mark.c}` }, here.labels, text);
  },
};

// Dots of one row are moved apart across the row, the first ones staying on the line.
function swarm(here, mark) {
  const rows = {}, limit = Math.max(0, here.sy.band / 2 - 7), gap = mark.x.length > 200 ? 4 : 8;
  const order = mark.x.map((value, index) => [here.sx.to(value), index]).sort((a, b) => a[0] - b[0]);
  const moved = [];
  for (const [x, index] of order) {
    const row = (rows[mark.y[index]] ||= []);
    const near = row.filter(([other]) => x - other < gap).map(([, offset]) => offset);
    let offset = 0;
    for (let ring = 0; near.some((other) => Math.abs(other - offset) < gap) && ring < 2 * (limit / 2); ring++) {
      offset = (ring % 2 ? 1 : -1) * Math.ceil((ring + 1) / 2) * 3;
    }
    moved[index] = Math.abs(offset) <= limit ? offset : ((index * 7) % (2 * limit + 1)) - limit;
    row.push([x, moved[index]]);
  }
  return moved;
}

// Labels at the ends of lines, moved apart; where there is no room for all, those of the first lines stay.
function writeEnds(here) {
  const { box } = here, room = Math.max(1, Math.floor(box.height / 14));
  const ends = here.ends.slice(0, room).sort((a, b) => a.at[1] - b.at[1]);
  ends.forEach((end, index) => { end.y = Math.max(end.at[1], box.y + 4, index ? ends[index - 1].y + 14 : 0); });
  let limit = box.y + box.height;
  for (const end of ends.toReversed()) { end.y = Math.min(end.y, limit); limit = end.y - 14; }
  for (const end of ends) {
    const x = Math.max(end.at[0], box.x) + 8, rest = box.right - x;
    if (Math.abs(end.y - end.at[1]) > 5) make("path", { d: `M${end.at[0] + 2},${end.at[1]}L${x - 1},${end.y}`, class: "edge" }, here.labels);
    make("text", { x, y: round(end.y + 4), class: `halo end-label mark ${end.c}` }, here.labels, fitText(end.label, rest, 12, 600));
  }
}
