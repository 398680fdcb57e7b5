"use strict";
const recorded = JSON.parse(document.getElementById("figure-data").textContent);
const darkColours = JSON.parse(document.getElementById("dark-colours").textContent);
const isDark = matchMedia("(prefers-color-scheme: dark)");
const isNarrow = matchMedia("(max-width: 700px)");
const isPrint = matchMedia("print");

// The value with every colour as a dark page shows it.
function darkened(value) {
  if (typeof value === "string") return darkColours[value] ?? value.replace(/#[0-9A-F]{6}/g, (c) => darkColours[c] ?? c);
  if (Array.isArray(value)) return value.map(darkened);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, darkened(inner)]));
}

// Panels under one another, labels inside, long titles on several lines: nothing reaches out.
function narrowed(figure) {
  const layout = figure.layout;
  const numbers = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).map((key) => key.slice(5));
  const box = (number) => [layout[`xaxis${number}`].domain ?? [0, 1], layout[`yaxis${number}`].domain ?? [0, 1]];
  const columns = new Set(numbers.map((number) => box(number)[0][0])).size;
  const before = new Map(numbers.map((number) => [number, box(number)]));
  const titles = (layout.annotations ?? []).filter((note) => note.xref === "paper" && note.yref === "paper");
  const near = (x, y) => numbers.reduce((best, number) => {
    const [[left, right], [low, high]] = before.get(number);
    const away = Math.max(left - x, 0, x - right) + Math.max(low - y, 0, y - high);
    return best === null || away < best[1] ? [number, away] : best;
  }, null)[0];
  if (columns > 1) {
    const share = 1 / numbers.length;
    const ordered = [...numbers].sort((a, b) => before.get(b)[1][0] - before.get(a)[1][0] || before.get(a)[0][0] - before.get(b)[0][0]);
    const after = new Map(ordered.map((number, at) => [number, [1 - (at + 0.8) * share, 1 - (at + 0.12) * share]]));
    const moved = (item) => {
      const number = near(item.x, item.y);
      const [low, high] = before.get(number)[1];
      const [bottom, top] = after.get(number);
      if (item.y < 0) return;
      item.y = item.y >= high ? top : bottom + ((item.y - low) / (high - low)) * (top - bottom);
      item.x = item.xanchor === "center" ? 0.5 : item.xanchor === "right" ? 1 : 0;
    };
    titles.forEach(moved);
    for (const key of Object.keys(layout).filter((name) => /^legend\d+$/.test(name))) moved(layout[key]);
    for (const number of numbers) {
      const x = layout[`xaxis${number}`], y = layout[`yaxis${number}`];
      x.domain = [0, 1];
      y.domain = after.get(number);
      x.showticklabels = y.showticklabels = true;
    }
    layout.height = Math.max(layout.height, 210 * numbers.length + 120);
  }
  layout.margin = { ...layout.template.layout.margin, ...layout.margin, r: 12 };
  layout.margin.l = Math.min(layout.margin.l, 92);
  for (const number of numbers) {
    for (const axis of [layout[`xaxis${number}`], layout[`yaxis${number}`]]) {
      const title = axis.title ?? {};
      if (title.text) title.text = wrapped(title.text, 34);
      axis.automargin = true;
    }
    const x = layout[`xaxis${number}`];
    if ((x.tickvals ?? []).length > 10) x.tickvals = x.tickvals.filter((_, at) => at % 3 === 0);
  }
  for (const note of layout.annotations ?? []) {
    if (note.x > 1) Object.assign(note, { x: 1, xanchor: "right", yanchor: "bottom" });
  }
  const entries = figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
  if (entries > 2) {
    const more = 19 * Math.ceil(entries / 2);
    layout.height += more;
    layout.margin.t = (layout.margin.t ?? 24) + more;
  }
  for (const trace of figure.data) if (trace.mode === "markers+text") trace.mode = "markers";
}

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.replaceAll("    ", " \n ").split(" ")) {
    if (word === "\n" || (lines.at(-1) + word).length > width) lines.push(word.trim());
    else lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines.filter(Boolean).join("<br>");
}

// Plotly's sliders and menus cannot be reached by keyboard; the browser's own can.
function addControls(id, figure) {
  const [slider] = figure.layout.sliders ?? [], [menu] = figure.layout.updatemenus ?? [];
  if (!slider && !menu) return () => {};
  const label = document.createElement("label");
  const control = document.createElement(slider ? "input" : "select");
  const shown = document.createElement("output");
  label.className = "control";
  if (slider) {
    Object.assign(control, { type: "range", min: 0, max: slider.steps.length - 1, value: slider.active });
    control.setAttribute("aria-label", slider.currentvalue.prefix.trim());
  } else {
    for (const [at, button] of menu.buttons.entries()) control.add(new Option(new DOMParser().parseFromString(button.label, "text/html").body.textContent, at));
  }
  label.append(slider ? slider.currentvalue.prefix : "Conversation ", control, shown);
  document.getElementById(`figure-${id}`).closest("figure").prepend(label);
  const apply = () => {
    if (slider) shown.value = slider.steps[control.value].label;
    const plot = document.getElementById(`figure-${id}`);
    const args = slider ? slider.steps[control.value].args : menu.buttons[control.value].args;
    if (plot.data) (slider ? Plotly.update : Plotly.restyle)(plot, ...structuredClone(args));
  };
  control.addEventListener("input", apply);
  return apply;
}

// Left and right go from point to point; what a mouse would show is shown, and said.
function addKeys(plot) {
  let at = -1;
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const points = plot.data.flatMap((trace, curveNumber) =>
      trace.visible === false || trace.hoverinfo === "skip" ? []
        : [...(trace.x ?? [])].flatMap((x, pointNumber) => (x === null ? [] : [{ curveNumber, pointNumber }])));
    at = (at + step + points.length) % points.length;
    const { curveNumber, pointNumber } = points[at], trace = plot.data[curveNumber];
    const number = (trace.xaxis ?? "x").slice(1);
    Plotly.Fx.hover(plot, [points[at]], `x${number}y${number}`);
    const text = trace.hovertext?.[pointNumber] ?? `${trace.name ?? ""} ${trace.x[pointNumber]}, ${trace.y[pointNumber]}`;
    document.getElementById("spoken").textContent = new DOMParser().parseFromString(text.replaceAll("<br>", " "), "text/html").body.textContent;
  });
}

const controls = new Map();
function draw() {
  for (const [id, whole] of Object.entries(recorded)) {
    let figure = structuredClone(whole);
    if (isNarrow.matches && !isPrint.matches) narrowed(figure);
    if (isDark.matches && !isPrint.matches) figure = darkened(figure);
    if (figure.layout.sliders) figure.layout.margin.b = 64;
    delete figure.layout.sliders;
    delete figure.layout.updatemenus;
    const plot = document.getElementById(`figure-${id}`);
    plot.style.height = `${figure.layout.height}px`;
    Plotly.react(plot, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      // A report stays where it is: no button that uploads a figure.
      showSendToCloud: false,
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: id },
    });
    controls.get(id)();
  }
}
for (const [id, figure] of Object.entries(recorded)) {
  controls.set(id, addControls(id, figure));
  addKeys(document.getElementById(`figure-${id}`));
}
draw();
for (const query of [isDark, isNarrow, isPrint]) query.addEventListener("change", draw);
