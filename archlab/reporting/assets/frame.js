// What every figure has: a legend, axes whose labels do not overlap, and places for labels that are still free.

const LINE = 16; // pixels of a line of text

function drawLegend(svg, entries, width) {
  let x = 0, y = 12;
  for (const entry of entries) {
    const text = fitText(entry.label, width - 28, 13), space = 26 + textWidth(text, 13);
    if (x > 0 && x + space > width) [x, y] = [0, y + 20];
    drawKey(svg, entry, x, y);
    make("text", { x: x + 24, y: y + 4, class: "name" }, svg, text);
    x += space + 20;
  }
  return entries.length ? y + 18 : 0;
}

function drawKey(svg, entry, x, y) {
  const group = make("g", { class: "key-mark" }, svg);
  if (entry.m === "line" || entry.m === "both") make("path", { d: `M${x},${y}h18`, class: `line mark ${entry.c}` }, group);
  if (entry.m === "band") make("rect", { x, y: y - 5, width: 18, height: 10, class: `band mark ${entry.c}` }, group);
  if (entry.m === "rule") make("path", { d: `M${x},${y}h18`, class: `rule mark ${entry.c}` }, group);
  if (entry.m === "interval") make("path", { d: `M${x},${y}h18`, class: `interval mark ${entry.c}` }, group);
  if (entry.m === "dot" || entry.m === "both") drawDot(group, x + 9, y, entry.c, entry.shape);
  if (entry.m === "bar") make("rect", { x, y: y - 5, width: 18, height: 10, class: `swatch mark ${entry.c}` }, group);
}

function drawDot(parent, x, y, kind, shape = "circle", size = 4.5) {
  const shared = { class: `dot mark ${kind} ${shape}` };
  if (shape === "cross") return make("path", { ...shared, d: `M${x - size},${y - size}l${2 * size},${2 * size}m0,${-2 * size}l${-2 * size},${2 * size}` }, parent);
  if (shape === "diamond") return make("path", { ...shared, d: `M${x},${y - size - 2}l${size + 2},${size + 2}l${-size - 2},${size + 2}l${-size - 2},${-size - 2}z` }, parent);
  if (shape === "median") return make("path", { ...shared, d: `M${x},${y - 9}v18` }, parent);
  return make("circle", { ...shared, cx: round(x), cy: round(y), r: size }, parent);
}

const round = (value) => Math.round(value * 10) / 10;

function leftMargin(axis, height, width) {
  const scale = scaleOf(axis, height, 0);
  const longest = Math.max(0, ...scale.ticks(Math.max(2, height / 48)).map(([, name]) => textWidth(name)));
  return Math.min(Math.ceil(longest) + 12, Math.max(60, width * 0.4));
}

function drawYAxis(group, axis, scale, box) {
  const names = scale.ticks(Math.max(2, box.height / 48));
  const spare = axis.scale === "category" ? Math.max(1, Math.ceil(14 / Math.max(scale.band, 0.1))) : 1;
  names.forEach(([value, name], index) => {
    const y = round(scale.to(value));
    if (y < box.y - 1 || y > box.y + box.height + 1) return;
    make("path", { d: `M${box.x},${y}h${box.width}`, class: "grid" }, group);
    if (index % spare === 0) make("text", { x: box.x - 8, y: y + 4, "text-anchor": "end", class: "ticktext" }, group, fitText(name, box.x - box.left - 8));
  });
  if (axis.label) make("text", { x: box.left, y: box.y - 14, class: "axis" }, group, fitText(axis.label, box.right - box.left));
}

function drawXAxis(group, axis, scale, box) {
  const bottom = box.y + box.height;
  make("path", { d: `M${box.x},${bottom}h${box.width}`, class: "edge" }, group);
  const names = fitTicks(scale, axis, box);
  for (const [value, name] of names) {
    const x = round(scale.to(value)), half = textWidth(name) / 2;
    make("path", { d: `M${x},${bottom}v4`, class: "tick" }, group);
    // The outermost labels are moved inwards rather than over the edge.
    const at = Math.min(Math.max(x, box.left + half), Math.max(box.right - half, box.left + half));
    make("text", { x: round(at), y: bottom + 17, "text-anchor": "middle", class: "ticktext" }, group, name);
  }
  if (axis.label) make("text", { x: box.x + box.width, y: bottom + 35, "text-anchor": "end", class: "axis" }, group, fitText(axis.label, box.right - box.left));
}

function fitTicks(scale, axis, box) {
  const apart = (names) => names.every(([value, name], index) => index === 0 ||
    Math.abs(scale.to(value) - scale.to(names[index - 1][0])) >= (textWidth(name) + textWidth(names[index - 1][1])) / 2 + 8);
  if (axis.scale === "category") {
    const all = scale.ticks().map(([value, name]) => [value, fitText(name, Math.max(scale.band - 8, 24))]);
    for (let every = 1; every <= all.length; every++) {
      const some = all.filter((_, index) => index % every === 0);
      if (apart(some)) return some;
    }
    return all.slice(0, 1);
  }
  for (let count = Math.max(5, Math.floor(box.width / 72)); count > 1; count--) {
    const names = scale.ticks(count).filter(([value]) => scale.to(value) >= box.x - 1 && scale.to(value) <= box.x + box.width + 1);
    if (apart(names)) return names;
  }
  return scale.ticks(1).slice(0, 1);
}

// Keeps what is drawn, so that a label is put where it hides least: never over another label, rarely over a dot.
class Places {
  constructor(box) { this.box = box; this.dots = []; this.labels = []; }

  cost(x, y, width, height) {
    const { left, right, y: top, height: tall } = this.box;
    if (x < left || x + width > right || y < top - 10 || y + height > top + tall + 2) return Infinity;
    const hidden = (boxes) => boxes.filter(([a, b, c, d]) => x < c && x + width > a && y < d && y + height > b).length;
    return hidden(this.labels) ? Infinity : hidden(this.dots);
  }

  // Write a label beside a point; further away it gets a thin leader.
  write(group, text, x, y, kind) {
    const width = textWidth(text, 12, 600), height = 13, found = [];
    for (const far of [7, 18, 32, 52, 76]) {
      for (const [dx, dy] of [[1, -0.6], [-1, -0.6], [1, 0.8], [-1, 0.8], [0, -1], [0, 1]]) {
        const left = x + dx * far - (dx < 0 ? width : dx === 0 ? width / 2 : 0), top = y + dy * far - height / 2;
        found.push({ left, top, dx, dy, far, cost: this.cost(left, top, width, height) + far / 12 });
      }
    }
    const best = found.reduce((one, other) => (other.cost < one.cost ? other : one));
    if (best.cost === Infinity) return;
    this.labels.push([best.left, best.top, best.left + width, best.top + height]);
    if (best.far > 7) make("path", { d: `M${round(x)},${round(y)}L${round(x + best.dx * best.far)},${round(y + best.dy * best.far)}`, class: "tick" }, group);
    make("text", { x: round(best.left), y: round(best.top + 10), class: `halo name point-label ${kind}`, style: "font-size:12px" }, group, text);
  }
}
