// Parallel coordinates. Axes stand side by side where there is room, and lie below each other where there is not.

const TICKS = 7;
const SLOT = 22; // pixels of a place beyond an axis, for what has no value on it

function drawParallel(figure) {
  const { spec, svg, width } = figure;
  const top = drawLegend(svg, spec.legend || [], width), across = width / spec.axes.length < 104;
  svg.classList.toggle("across", across);
  const layout = across ? rowsLayout(spec, width, top) : columnsLayout(spec, width, top);
  const lines = make("g", {}, svg);
  layout.axes.forEach((axis, index) => drawAxis(figure, layout, axis, spec.axes[index]));
  svg.append(...svg.querySelectorAll(".axis-group"));
  for (const row of spec.rows) {
    const at = row.v.map((value, index) => layout.axes[index].point(value));
    const path = make("path", { d: smooth(at, across), class: `line mark ${row.c}` }, lines);
    figure.add(path, row.t);
    figure.lines.push({ path, row });
    at.forEach(([x, y], index) => figure.hit({ panel: { x: {}, y: {} } }, x, y, row.t, null, null, "", index));
  }
  figure.boxes.push(layout.box);
  return layout.height;
}

function smooth(points, across) {
  return points.map(([x, y], index) => {
    if (index === 0) return `M${round(x)},${round(y)}`;
    const [a, b] = points[index - 1], mx = round((a + x) / 2), my = round((b + y) / 2);
    return across ? `C${round(a)},${my} ${round(x)},${my} ${round(x)},${round(y)}` : `C${mx},${round(b)} ${mx},${round(y)} ${round(x)},${round(y)}`;
  }).join("");
}

function columnsLayout(spec, width, top) {
  const height = 360, count = spec.axes.length, y = top + 44, space = width / count;
  let first = 0;
  const axes = spec.axes.map((axis, index) => {
    const longest = Math.max(...tickNames(axis).map((name) => textWidth(name)), 20);
    if (index === 0) first = Math.min(longest + 10, 0.6 * space);
    const x = first + (index * (width - first - 12)) / Math.max(count - 1, 1), left = Math.max(0, x - space * 0.7), slots = (axis.slots || []).length * SLOT;
    const scale = scaleOf(axis, y + height, y + slots);
    const slot = (name) => y + (axis.slots.indexOf(name) + 0.4) * SLOT;
    return { x, y, left, space, slots, scale, slot, length: height, point: (value) => [x, typeof value === "string" ? slot(value) : scale.to(value)] };
  });
  return { axes, across: false, height: y + height + 16, box: { x: 0, y, width, height, left: 0, right: width } };
}

function rowsLayout(spec, width, top) {
  const each = 78, y = top + 24;
  const axes = spec.axes.map((axis, index) => {
    const slots = (axis.slots || []).length * 64, scale = scaleOf(axis, 8, width - slots - 16), at = y + index * each;
    const slot = (name) => width - slots + (axis.slots.indexOf(name) + 0.5) * 64;
    return { x: 8, y: at, left: 0, space: width, slots, scale, slot, length: width - slots - 24, point: (value) => [typeof value === "string" ? slot(value) : scale.to(value), at] };
  });
  const height = each * (spec.axes.length - 1);
  return { axes, across: true, height: y + height + 34, box: { x: 0, y, width, height, left: 0, right: width } };
}

const tickNames = (axis) => [...scaleOf(axis, 100, 0).ticks(TICKS).map(([, name]) => name), ...(axis.slots || [])];

function drawAxis(figure, layout, at, axis) {
  const group = make("g", { class: "axis-group" }, figure.svg);
  if (layout.across) {
    make("path", { d: `M${at.x},${at.y}h${at.length}`, class: "tick" }, group);
    make("text", { x: 0, y: at.y - 12, class: "axis halo" }, group, fitText(axis.label, at.space));
    const box = { left: 0, right: at.x + at.length, x: at.x, width: at.length };
    for (const [value, name] of fitTicks(at.scale, axis, box)) tickBelow(group, at.scale.to(value), at.y, name, box);
    for (const name of axis.slots || []) tickBelow(group, at.slot(name), at.y, name, { left: 0, right: at.space });
  } else {
    make("path", { d: `M${at.x},${at.y + at.slots}v${at.length - at.slots}`, class: "tick" }, group);
    const title = fitText(axis.label, at.space - 10), half = textWidth(title) / 2;
    const middle = Math.min(Math.max(at.x, half), layout.box.right - half);
    make("text", { x: round(middle), y: at.y - 16, "text-anchor": "middle", class: "axis" }, group, title);
    let last = Infinity;
    const ticks = [...at.scale.ticks(TICKS).map(([value, name]) => [at.scale.to(value), name]), ...(axis.slots || []).map((name) => [at.slot(name), name])];
    for (const [y, name] of ticks.sort((a, b) => b[0] - a[0])) {
      make("path", { d: `M${at.x - 3},${round(y)}h6`, class: "tick" }, group);
      if (last - y < 14) continue;
      last = y;
      make("text", { x: at.x - 6, y: round(y + 4), "text-anchor": "end", class: "halo ticktext" }, group, fitText(name, at.x - at.left - 6));
    }
  }
  addBrush(figure, layout, at, group);
}

function tickBelow(group, x, y, name, box) {
  const half = textWidth(name) / 2, middle = Math.min(Math.max(x, box.left + half), box.right - half);
  make("path", { d: `M${round(x)},${y - 3}v6`, class: "tick" }, group);
  make("text", { x: round(middle), y: y + 18, "text-anchor": "middle", class: "halo ticktext" }, group, name);
}

// Dragging along an axis keeps the lines that pass there; a click takes the choice back.
function addBrush(figure, layout, at, group) {
  const grip = make("rect", { x: at.x - 12, y: at.y - 12, width: layout.across ? at.space : 24, height: layout.across ? 24 : at.length + 24, class: "grip" }, group);
  const index = layout.axes.indexOf(at), place = (event) => {
    const bounds = figure.svg.getBoundingClientRect();
    return layout.across ? event.clientX - bounds.left : event.clientY - bounds.top;
  };
  let shown = null;
  grip.addEventListener("pointerdown", (event) => {
    const start = place(event);
    grip.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const [low, high] = [start, place(moved)].sort((a, b) => a - b);
      shown?.remove();
      const size = layout.across ? { x: low, width: high - low, y: at.y - 6, height: 12 } : { y: low, height: high - low, x: at.x - 6, width: 12 };
      shown = high - low > 4 ? make("rect", { ...size, class: "brush" }, group) : null;
      figure.brushes[index] = shown ? (value) => { const p = at.point(value)[layout.across ? 0 : 1]; return p >= low && p <= high; } : null;
      applyBrushes(figure);
    };
    grip.onpointermove = move;
    grip.onpointerup = (ended) => { move(ended); grip.onpointermove = grip.onpointerup = null; };
  });
}

function applyBrushes(figure) {
  for (const { path, row } of figure.lines) {
    const kept = row.v.every((value, index) => !figure.brushes[index] || figure.brushes[index](value));
    path.classList.toggle("dim", !kept);
  }
}
