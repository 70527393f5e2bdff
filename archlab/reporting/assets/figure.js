// A figure draws itself at the width that it has, tells what is under the pointer, and lights one run up in all figures.

const KINDS = { chart: drawChart, bars: drawBars, parallel: drawParallel, layers: drawLayers };
const figures = [];
const page = JSON.parse(document.getElementById("page-data")?.textContent || '{"runs":[],"knobs":[]}');
const tip = html("div", { id: "tip", hidden: true });

class Figure {
  constructor(element) {
    this.id = element.id;
    this.plot = element.querySelector(".plot");
    this.spec = JSON.parse(element.querySelector("script").textContent);
    this.caption = element.getAttribute("aria-label") || "";
    this.width = 0;
    this.draw();
    // In a frame of its own: what is drawn in the observer changes the size that it observes.
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.plot);
  }

  draw() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width || width === this.width) return;
    Object.assign(this, { width, boxes: [], hits: [], marks: new Map(), lines: [], brushes: [], at: -1 });
    this.svg = make("svg", { width, tabindex: 0, role: "img", "aria-label": this.caption });
    this.svg.classList.toggle("many", this.spec.many > 0);
    this.svg.style.setProperty("--thin", Math.min(0.3, Math.max(0.06, 60 / (this.spec.many || 1))));
    this.plot.replaceChildren(this.svg); // first, so that text is measured in its style
    const height = Math.ceil(KINDS[this.spec.kind](this));
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.hot = make("g", { class: "hot-layer" }, this.svg);
    this.listen();
  }

  add(element, t) {
    if (t === null || t === undefined) return;
    if (!this.marks.has(t)) this.marks.set(t, []);
    this.marks.get(t).push(element);
  }

  hit(here, x, y, t, xv, yv, name, index = 0) {
    this.hits.push({ x, y, t, xv, yv, name, xa: here.panel.x, ya: here.panel.y, index });
  }

  listen() {
    this.svg.addEventListener("pointermove", (event) => {
      const bounds = this.svg.getBoundingClientRect(), scale = this.width / bounds.width;
      this.show(this.nearest((event.clientX - bounds.left) * scale, (event.clientY - bounds.top) * scale), event.clientX, event.clientY);
    });
    this.svg.addEventListener("pointerleave", () => this.show(null));
    this.svg.addEventListener("blur", () => this.show(null));
    this.svg.addEventListener("click", () => pin(this.shown?.t));
    this.svg.addEventListener("keydown", (event) => this.step(event));
  }

  nearest(x, y) {
    let best = null, least = 28 ** 2;
    for (const hit of this.hits) {
      const distance = (hit.x - x) ** 2 + (hit.y - y) ** 2;
      if (distance < least) [best, least] = [hit, distance];
    }
    return best;
  }

  step(event) {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { pin(null); this.show(null); }
    if (event.key === "Enter") pin(this.shown?.t);
    if (!move || !this.hits.length) return;
    event.preventDefault();
    this.sorted ||= [];
    if (this.sorted.length !== this.hits.length) this.sorted = this.hits.toSorted((a, b) => a.x - b.x || a.y - b.y);
    this.at = (this.at + move + this.sorted.length) % this.sorted.length;
    const hit = this.sorted[this.at], bounds = this.svg.getBoundingClientRect();
    this.show(hit, bounds.left + hit.x, bounds.top + hit.y);
  }

  show(hit, x, y) {
    if (hit === this.shown && hit === null) return;
    this.shown = hit;
    lightUp(hit?.t ?? pinned);
    tip.hidden = !hit;
    if (!hit) return;
    tip.replaceChildren(...describe(hit));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, x + 16 + width > innerWidth - 8 ? Math.min(x - width - 16, innerWidth - width - 8) : x + 16)}px`;
    tip.style.top = `${Math.max(8, y + 16 + height > innerHeight - 8 ? y - height - 16 : y + 16)}px`;
  }

  highlight(t) {
    this.hot.replaceChildren(...(this.marks.get(t) || []).map((element) => {
      const copy = element.cloneNode();
      copy.classList.add("hot");
      return copy;
    }));
  }
}

function describe(hit) {
  const run = hit.t === null || hit.t === undefined ? null : page.runs[hit.t];
  const lines = [html("b", { textContent: run ? run[0] + (run[1] ? `, ${run[1]}` : "") : hit.name || "" })];
  for (const [axis, value] of [[hit.xa, hit.xv], [hit.ya, hit.yv]]) {
    if (value === null || value === undefined || !axis.label) continue;
    const shown = axis.scale === "category" ? axis.values[value] : axis.percent ? `${(value * 100).toFixed(2)}%` : formatNumber(value, 5);
    lines.push(html("div", { textContent: `${axis.label}: ${shown}` }));
  }
  if (run?.[2]) lines.push(html("div", { textContent: run[2] }));
  if (run) run[3].forEach((value, index) => { if (value !== "") lines.push(html("div", { textContent: `${page.knobs[index]}: ${value}` })); });
  return lines;
}

let pinned = null, lit = null;

function pin(t) {
  pinned = t === undefined || t === pinned ? null : t;
  lightUp(pinned);
  if (pinned !== null) document.getElementById(`run-${pinned}`)?.scrollIntoView({ block: "nearest" });
}

function lightUp(t) {
  const now = t ?? null;
  if (now === lit) return;
  if (lit !== null) document.getElementById(`run-${lit}`)?.classList.remove("hot");
  lit = now;
  if (lit !== null) document.getElementById(`run-${lit}`)?.classList.add("hot");
  for (const figure of figures) figure.hot && figure.highlight(lit);
}
