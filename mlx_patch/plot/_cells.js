"use strict";
// Draws what cells_data or points_data made: a heatmap for two axes or more, a curve for one, or points. Texts go in as
// texts, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figure = document.getElementById("figure");
  if (data.points) data.axes = [], data.metrics = ["value"], data.examples = 1;
  const sizes = data.axes.map(axis => axis.labels.length);
  const strides = sizes.map((_, i) => sizes.slice(i + 1).reduce((product, size) => product * size, 1));
  const state = { metric: 0, example: -1, places: data.axes.map(() => 0) };
  [state.rows, state.columns] = (data.shown || []).map(name => data.axes.findIndex(axis => axis.name === name));

  function element(parent, name, attributes = {}, text = "") {
    const isSvg = ["svg", "path", "line", "circle", "text"].includes(name);
    const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== "") made.textContent = text;
    parent.append(made);
    return made;
  }

  // The mean over the examples that count, or one example; null where a number is missing.
  function chosen(numbers) {
    if (state.example >= 0) return numbers[state.example];
    const counted = numbers.filter((_, i) => data.counted[state.metric][i]);
    if (!counted.length || counted.includes(null)) return null;
    return counted.reduce((sum, number) => sum + number, 0) / counted.length;
  }

  const baseline = () => data.baseline ? chosen(data.baseline[state.metric]) : null;
  const indexOf = places => places.reduce((sum, place, i) => sum + place * strides[i], 0);
  const valueAt = places => chosen(data.values[indexOf(places)][state.metric]);
  const written = number => number === null ? "no value" : Number(number.toPrecision(4)).toString();
  const middle = () => data.normalised ? baseline() ?? 0 : 0;

  function shownAt(places) {
    const value = valueAt(places), base = baseline();
    if (data.normalised || !data.baseline) return value;
    return value === null || base === null ? null : value - base;
  }

  function sentence(places) {
    const where = places.map((place, i) => `${data.axes[i].name} ${data.axes[i].labels[place]}`).join(", ");
    const value = valueAt(places), base = baseline();
    const parts = [`${where || "the only cell"}: ${written(value)}`];
    if (data.baseline) parts.push(`baseline ${written(base)}`);
    if (value !== null && base !== null) parts.push(`change ${written(value - base)}`);
    if (data.exact) parts.push(data.exact[indexOf(places)] ? "swept exactly" : "an estimate");
    return parts.join(", ");
  }

  function picker(parent, label, options, value, change) {
    const holder = element(parent, "label", {}, `${label} `);
    const select = element(holder, "select", { name: label });
    options.forEach(([key, text]) => element(select, "option", { value: key }, text));
    select.value = value;
    select.addEventListener("change", () => {
      change(Number(select.value));
      draw(); // makes the pickers anew, so the focus goes to the new one
      [...pickers.querySelectorAll("select")].find(other => other.name === label)?.focus();
    });
  }

  const numbered = texts => texts.map((text, i) => [i, text]);
  const pickers = element(figure, "div", { class: "pickers" });
  const readout = element(figure, "output", { "aria-live": "polite" });
  const stage = element(figure, "div", { class: "scroll" });
  const details = element(figure, "details");
  element(details, "summary", {}, "The same numbers as a table");
  const table = element(details, "div", { class: "scroll" });
  details.addEventListener("toggle", drawTable);

  function drawPickers() {
    pickers.replaceChildren();
    if (data.metrics.length > 1)
      picker(pickers, "metric", numbered(data.metrics), state.metric, value => { state.metric = value; });
    if (data.examples > 1) {
      const examples = [[-1, `mean of ${data.examples}`]];
      for (let i = 0; i < data.examples; i++) examples.push([i, String(i)]);
      picker(pickers, "example", examples, state.example, value => { state.example = value; });
    }
    if (data.axes.length < 3) return;
    const names = numbered(data.axes.map(axis => axis.name));
    picker(pickers, "rows", names, state.rows, value => exchange("rows", "columns", value));
    picker(pickers, "columns", names, state.columns, value => exchange("columns", "rows", value));
    data.axes.forEach((axis, i) => {
      if (i !== state.rows && i !== state.columns)
        picker(pickers, axis.name, numbered(axis.labels), state.places[i], value => { state.places[i] = value; });
    });
  }

  function exchange(side, other, value) {
    if (state[other] === value) state[other] = state[side];
    state[side] = value;
  }

  function placesOf(row, column) {
    const places = state.places.slice();
    if (data.axes.length > 1) [places[state.rows], places[state.columns]] = [row, column];
    else if (data.axes.length) places[0] = column;
    return places;
  }

  // Arrow keys, Home and End move between marks[row][column]; one of them is in the order of Tab.
  function walk(marks) {
    let current = null;
    const enter = mark => {
      if (current) current.setAttribute("tabindex", "-1");
      current = mark;
      current.setAttribute("tabindex", "0");
    };
    marks.forEach((row, y) => row.forEach((mark, x) => {
      mark.setAttribute("tabindex", "-1");
      mark.addEventListener("focus", () => { enter(mark); readout.textContent = mark.getAttribute("aria-label"); });
      mark.addEventListener("mouseenter", () => { readout.textContent = mark.getAttribute("aria-label"); });
      mark.addEventListener("keydown", event => {
        const last = row.length - 1;
        const [toY, toX] = {
          ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1],
          Home: [y, 0], End: [y, last],
        }[event.key] || [-1, -1];
        const next = (marks[toY] || [])[toX];
        if (!next) return;
        event.preventDefault();
        next.focus();
      });
    }));
    if (marks.length && marks[0].length) enter(marks[0][0]);
  }

  function drawHeatmap() {
    const [rows, columns] = [data.axes[state.rows], data.axes[state.columns]];
    let limit = 0;
    rows.labels.forEach((_, y) => columns.labels.forEach((_, x) => {
      const shown = shownAt(placesOf(y, x));
      if (shown !== null) limit = Math.max(limit, Math.abs(shown - middle()));
    }));
    let what = `${data.baseline ? "change of " : ""}${data.metrics[state.metric]}`;
    if (data.normalised) what = "fraction of the gap";
    const legend = element(stage, "p", {}, `${what}: ${written(middle() - limit)} `);
    element(legend, "span", { class: "scale", "aria-hidden": "true" });
    legend.append(` ${written(middle() + limit)}`);
    if (data.exact) legend.append("; cells with a border were swept exactly");
    const grid = element(stage, "table", { class: "grid", role: "grid", "aria-label": `${what} by ${rows.name} and ${columns.name}` });
    const order = rows.labels.map((_, y) => y);
    if (rows.ordered) order.reverse();
    const marks = order.map(y => {
      const line = element(grid, "tr");
      element(line, "th", { scope: "row" }, rows.labels[y]);
      return columns.labels.map((_, x) => {
        const places = placesOf(y, x), shown = shownAt(places), text = sentence(places);
        const cell = element(line, "td", { role: "gridcell", "aria-label": text, title: text });
        if (shown === null) cell.classList.add("missing");
        else {
          const share = limit ? (shown - middle()) / limit : 0;
          const colour = share < 0 ? "--less" : "--more";
          cell.style.background = `color-mix(in oklab, var(${colour}) ${100 * Math.abs(share)}%, var(--middle))`;
        }
        if (data.exact && data.exact[indexOf(places)]) cell.classList.add("exact");
        return cell;
      });
    });
    const head = document.createElement("thead");
    grid.prepend(head);
    const titles = element(head, "tr");
    element(titles, "th", {}, `${rows.label} by ${columns.label}`);
    columns.labels.forEach(label => element(titles, "th", { scope: "col" }, label));
    walk(marks);
  }

  function drawCurve() {
    const axis = data.axes[0], [width, height, left, bottom] = [720, 300, 64, 44];
    const values = axis.labels.map((_, x) => valueAt([x])), base = baseline();
    const band = state.example < 0 && data.interval
      ? data.interval.map(end => end.map(numbers => numbers[state.metric])) : null;
    const numbers = [...values, base, ...(band ? band.flat() : [])].filter(number => number !== null);
    let [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    if (!numbers.length || low === high) [low, high] = [(low || 0) - 1, (high || 0) + 1];
    const toX = x => left + (x + 0.5) * (width - left - 10) / values.length;
    const toY = value => 10 + (high - value) / (high - low) * (height - 10 - bottom);
    const what = data.normalised ? "fraction of the gap" : data.metrics[state.metric];
    const svg = element(stage, "svg", { viewBox: `0 0 ${width} ${height}`, width, role: "group", "aria-label": `${what} by ${axis.label}` });
    [low, (low + high) / 2, high].forEach(tick => {
      element(svg, "line", { x1: left, x2: width - 10, y1: toY(tick), y2: toY(tick), stroke: "var(--line)" });
      element(svg, "text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, written(tick));
    });
    if (base !== null) {
      const line = { x1: left, x2: width - 10, y1: toY(base), y2: toY(base), stroke: "var(--soft)", "stroke-dasharray": "5 4" };
      element(svg, "line", line);
      element(svg, "text", { x: width - 12, y: toY(base) - 4, "text-anchor": "end" }, "baseline");
    }
    const there = values.map((value, x) => [value, x]).filter(([value]) => value !== null);
    if (band) there.forEach(([, x]) => {
      if (band[0][x] === null || band[1][x] === null) return;
      const ends = { x1: toX(x), x2: toX(x), y1: toY(band[0][x]), y2: toY(band[1][x]) };
      element(svg, "line", { ...ends, stroke: "var(--less)", "stroke-opacity": "0.45", "stroke-width": "5" });
    });
    if (axis.ordered) {
      let path = "", before = -2;
      there.forEach(([value, x]) => {
        path += `${x === before + 1 ? "L" : "M"}${toX(x).toFixed(1)} ${toY(value).toFixed(1)}`;
        before = x;
      });
      element(svg, "path", { d: path, fill: "none", stroke: "var(--less)", "stroke-width": "1.8" });
    }
    const step = Math.max(1, Math.ceil(values.length / 24));
    axis.labels.forEach((label, x) => {
      if (x % step) return;
      const short = label.length > 12 ? `${label.slice(0, 11)}…` : label;
      const at = { x: toX(x), y: height - bottom + 16, "text-anchor": "middle" };
      if (step > 1 || short.length > 4) Object.assign(at, { transform: `rotate(-30 ${at.x} ${at.y})`, "text-anchor": "end" });
      element(svg, "text", at, short);
    });
    element(svg, "text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle" }, axis.label);
    walk([there.map(([value, x]) => element(svg, "circle", {
      cx: toX(x), cy: toY(value), r: 4.5, fill: "var(--less)", role: "img", "aria-label": sentence([x]),
    }))]);
    element(stage, "p", {}, band ? `${what}; bars are 95% intervals of the mean` : what);
  }

  // Two numbers a point, on one scale both ways, with the line on which they are equal.
  function drawPoints() {
    const [size, left, bottom] = [420, 64, 44];
    const points = data.points.filter(({ x, y }) => x !== null && y !== null).sort((a, b) => a.x - b.x);
    const numbers = points.flatMap(({ x, y }) => [x, y]);
    let [low, high] = [Math.min(0, ...numbers), Math.max(0, ...numbers)];
    if (low === high) [low, high] = [-1, 1];
    const room = (high - low) / 20;
    [low, high] = [low - room, high + room];
    const toX = x => left + (x - low) / (high - low) * size;
    const toY = y => 10 + (high - y) / (high - low) * size;
    const [width, height] = [left + size + 10, size + 10 + bottom];
    const svg = element(stage, "svg", { viewBox: `0 0 ${width} ${height}`, width, role: "group", "aria-label": `${data.y} by ${data.x}` });
    [low + room, 0, high - room].filter((tick, i, ticks) => ticks.indexOf(tick) === i).forEach(tick => {
      element(svg, "line", { x1: left, x2: left + size, y1: toY(tick), y2: toY(tick), stroke: "var(--line)" });
      element(svg, "line", { x1: toX(tick), x2: toX(tick), y1: 10, y2: 10 + size, stroke: "var(--line)" });
      element(svg, "text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, written(tick));
      element(svg, "text", { x: toX(tick), y: size + 26, "text-anchor": "middle" }, written(tick));
    });
    const equal = { x1: toX(low), y1: toY(low), x2: toX(high), y2: toY(high), stroke: "var(--soft)", "stroke-dasharray": "5 4" };
    element(svg, "line", equal);
    element(svg, "text", { x: left + size / 2, y: height - 4, "text-anchor": "middle" }, data.x);
    const middleY = 10 + size / 2;
    element(svg, "text", { x: 14, y: middleY, "text-anchor": "middle", transform: `rotate(-90 14 ${middleY})` }, data.y);
    const colours = ["var(--less)", "var(--more)", "var(--soft)"];
    walk([points.map(point => element(svg, "circle", {
      cx: toX(point.x), cy: toY(point.y), r: 4.5, fill: colours[data.groups.indexOf(point.group) % 3], "fill-opacity": "0.7",
      role: "img", "aria-label": `${point.label}: ${written(point.y)}, ${data.x} ${written(point.x)}, ${point.group}`,
    }))]);
    const legend = element(stage, "p", {}, "");
    data.groups.forEach((group, i) => {
      element(legend, "span", { style: `color: ${colours[i % 3]}`, "aria-hidden": "true" }, "\u25cf");
      legend.append(` ${group} `);
    });
    legend.append(" - - the line on which the two are equal");
  }

  function drawPointsTable() {
    const made = element(table, "table", { class: "numbers" });
    const head = element(element(made, "thead"), "tr");
    ["", data.x, data.y].forEach(label => element(head, "th", { scope: "col" }, label));
    const body = element(made, "tbody");
    data.points.forEach(({ label, x, y }) => {
      const line = element(body, "tr");
      element(line, "th", { scope: "row" }, label);
      [x, y].forEach(number => element(line, "td", {}, written(number)));
    });
  }

  function drawTable() {
    table.replaceChildren();
    if (!details.open) return;
    if (data.points) return drawPointsTable();
    const rows = data.axes.length > 1 ? data.axes[state.rows] : { label: "", labels: ["value"] };
    const columns = data.axes.length > 1 ? data.axes[state.columns] : data.axes[0] || { label: "", labels: [""] };
    const made = element(table, "table", { class: "numbers" });
    const head = element(element(made, "thead"), "tr");
    element(head, "th", {}, `${rows.label} by ${columns.label}`);
    columns.labels.forEach(label => element(head, "th", { scope: "col" }, label));
    const body = element(made, "tbody");
    rows.labels.forEach((label, y) => {
      const line = element(body, "tr");
      element(line, "th", { scope: "row" }, label);
      columns.labels.forEach((_, x) => element(line, "td", {}, written(valueAt(placesOf(y, x)))));
    });
  }

  function draw() {
    drawPickers();
    stage.replaceChildren();
    readout.textContent = "Point at a cell, or move with the arrow keys.";
    if (data.points) drawPoints();
    else if (data.axes.length > 1) drawHeatmap();
    else if (data.axes.length) drawCurve();
    else readout.textContent = sentence([]);
    drawTable();
  }

  draw();
})();
