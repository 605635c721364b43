"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const root = document.documentElement;

  // ---- The page's building blocks. Text from data becomes text nodes, never markup.

  function element(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  /** A sentence with what it has in backticks as code. */
  const coded = (text) => text.split(/`([^`]*)`/).map((part, place) => (place % 2 ? element("code", {}, part) : part));

  function drawn(name, attributes = {}, text = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  }

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function section(id, title, note) {
    const node = element("section", { id, "aria-labelledby": id + "-title" }, element("h2", { id: id + "-title" }, title));
    if (note) node.append(element("p", { class: "note" }, note));
    main.append(node);
    return node;
  }

  /** A group of radio buttons (`many` false) or check boxes; calls `changed` with the chosen value or values. */
  function choice(label, name, options, chosen, many, changed) {
    const group = element("fieldset", {}, element("legend", {}, label));
    for (const [value, text] of options) {
      const input = element("input", {
        type: many ? "checkbox" : "radio", name, value, checked: many ? chosen.includes(value) : value === chosen,
        onchange: () => {
          const on = [...group.querySelectorAll("input:checked")].map((box) => box.value);
          changed(many ? on : on[0]);
        },
      });
      group.append(element("label", {}, input, text));
    }
    return group;
  }

  function menu(label, options, chosen, changed) {
    const select = element("select", { onchange: () => changed(select.value) });
    for (const [value, text] of options) select.append(element("option", { value, selected: value === chosen }, text));
    return element("label", {}, label + " ", select);
  }

  // ---- Tables

  /** The rows of a CSV file as objects; numbers as numbers, empty fields as null. */
  function table(name) {
    const text = data.files[name];
    if (!text) return [];
    const [head, ...lines] = text.trimEnd().split(/\r?\n/).map(fields);
    const number = (field) => (field === "inf" ? Infinity : field === "-inf" ? -Infinity : Number(field));
    return lines.map((line) => Object.fromEntries(head.map((column, place) => {
      const field = line[place];
      // As in the file, where a text that a spreadsheet would run has a mark in front.
      if (column === "mapping") return [column, field.replace(/^'(?=['=+\-@\t\r])/, "")];
      return [column, field === "" || field === undefined ? null : number(field)];
    })));
  }

  /** A text as the files have it, since what is copied goes into a spreadsheet too. */
  const marked = (text) => (/^[=+\-@\t\r']/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text);

  function fields(line) {
    return [...line.matchAll(/("([^"]|"")*"|[^,]*)(,|$)/g)].slice(0, line.endsWith(",") ? undefined : -1)
      .map(([, field]) => (field.startsWith('"') ? field.slice(1, -1).replaceAll('""', '"') : field));
  }

  const r2 = table("r2.csv"), layers = table("layers.csv"), exits = table("early_exit.csv");
  const exitLayers = table("exits.csv"), ranks = table("ranks.csv");
  const last = Math.max(0, ...r2.map((row) => row.to), ...layers.map((row) => row.layer));
  const unique = (values) => [...new Set(values)];
  const LOOKS = new Map(data.casts.map((look, place) => [look.cast, { ...look, place }]));
  // The table above cuts a name at the end of its line, which is then not among them.
  const look = (cast) => LOOKS.get(cast) || { color: "amber", dash: [11, 4], place: LOOKS.size };
  function castsOf(rows) {
    const casts = unique(rows.map((row) => row.mapping));
    return casts.sort((a, b) => look(a).place - look(b).place || (a < b ? -1 : 1));
  }

  function shown(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text = size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(3) : value.toFixed(digits);
    return text.replaceAll("-", "−");
  }
  const interval = (lo, hi) => (Number.isFinite(lo) && Number.isFinite(hi) ? `[${shown(lo)}, ${shown(hi)}]` : "");

  // ---- Charts

  const charts = [];

  /**
   * A chart of lines. `describe()` gives { x, y, log, series: [{ name, cast, dash, points: [{ x, y, lo, hi, also }] }] },
   * and is asked again at every `redraw`. A readout beside it shows the values at the cursor, by mouse, touch or arrow keys.
   */
  function lineChart(parent, label, describe) {
    const box = element("div", { class: "chart", tabindex: 0, role: "application", "aria-label": label + ": arrow keys go from point to point" });
    const readout = element("table", { class: "readout", "aria-live": "polite" });
    parent.append(element("div", { class: "figure" }, box, readout));
    let plot = null, at = null, now = null;

    function redraw() {
      now = describe();
      const xs = unique(now.series.flatMap((line) => line.points.map((point) => point.x))).filter(Number.isFinite).sort((a, b) => a - b);
      const columns = [xs], series = [{}], bands = [];
      const finite = (value) => (Number.isFinite(value) && !(now.log && value <= 0) ? value : null);
      for (const line of now.series) {
        const byX = new Map(line.points.map((point) => [point.x, point]));
        const column = (key) => xs.map((x) => (byX.has(x) ? finite(byX.get(x)[key]) : undefined));
        const [color, dash] = [style("--" + line.color), line.dash];
        columns.push(column("y"));
        series.push({ stroke: color, width: 2.5, dash, points: { show: xs.length < 60, size: 7, fill: color, stroke: color }, spanGaps: false });
        if (line.points.some((point) => Number.isFinite(point.lo))) {
          columns.push(column("hi"), column("lo"));
          const hidden = { stroke: "transparent", width: 0, points: { show: false } };
          series.push(hidden, hidden);
          bands.push({ series: [columns.length - 2, columns.length - 1], fill: color + "33" });
        }
      }
      const axis = (text) => ({ label: text, stroke: style("--text"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") }, font: '14px "Jumplens Sans"', labelFont: '15px "Jumplens Sans"', labelSize: 24 });
      const width = box.clientWidth || 600;
      const options = {
        width, height: Math.max(240, Math.min(380, width * 0.62)), series, bands, legend: { show: false },
        scales: { x: { time: false, distr: now.logX ? 3 : 1 }, y: { distr: now.log ? 3 : 1, range: now.range } },
        axes: [{ ...axis(now.x), ...(now.x === "layer" ? { incrs: [1, 2, 5, 10, 20, 50] } : {}) }, { ...axis(now.y), size: 62 }],
        cursor: { drag: { x: false, y: false }, points: { size: 10 } },
        hooks: { setCursor: [(chart) => { if (chart.cursor.idx !== null && chart.cursor.idx !== undefined) read(chart.cursor.idx); }] },
      };
      if (plot) plot.destroy();
      box.replaceChildren();
      plot = new uPlot(options, columns, box);
      box.dataset.drawn = Number(box.dataset.drawn || 0) + 1;
      read(Math.min(at ?? Math.floor((xs.length - 1) / 2), xs.length - 1));
    }

    function read(index) {
      const xs = plot.data[0];
      if (!xs.length) { readout.replaceChildren(element("caption", {}, "nothing to show")); return; }
      at = index;
      const x = xs[index];
      const rows = now.series.map((line) => {
        // Curves that have no point here show their nearest.
        const near = line.points.reduce((best, point) => (Number.isFinite(point.x) && (!best || Math.abs(point.x - x) < Math.abs(best.x - x)) ? point : best), null);
        const mark = element("span", { class: "swatch" });
        mark.style.borderColor = style("--" + line.color);
        mark.style.borderTopStyle = line.dash.length ? "dashed" : "solid";
        const detail = near ? [interval(near.lo, near.hi), near.also ? near.also : ""].filter(Boolean).join(" ") : "";
        return element("tr", { "data-series": line.name }, element("th", { scope: "row" }, mark, line.name),
          element("td", { class: "value" }, near ? shown(near.y) : "–"), element("td", { class: "interval" }, detail));
      });
      readout.replaceChildren(element("caption", {}, `${now.x} ${shown(x, Number.isInteger(x) ? 0 : 2)}`), element("tbody", {}, ...rows));
    }

    box.addEventListener("keydown", (event) => {
      const end = plot.data[0].length - 1;
      const to = { ArrowLeft: (at ?? 0) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: end }[event.key];
      if (to === undefined || end < 0) return;
      event.preventDefault();
      const index = Math.max(0, Math.min(end, to));
      read(index);
      const first = plot.data.slice(1).map((column) => column[index]).find((value) => value !== null && value !== undefined);
      plot.setCursor({ left: plot.valToPos(plot.data[0][index], "x"), top: first === undefined ? 0 : plot.valToPos(first, "y") });
    });
    new ResizeObserver(() => {
      if (plot && box.clientWidth && Math.abs(box.clientWidth - plot.width) > 1) {
        plot.setSize({ width: box.clientWidth, height: Math.max(240, Math.min(380, box.clientWidth * 0.62)) });
      }
    }).observe(box);
    charts.push(redraw);
    redraw();
    return redraw;
  }

  const line = (cast, points, name = cast, dash = look(cast).dash) => ({ name, color: look(cast).color, dash, points });
  const casesOf = (casts) => casts.map((cast) => [cast, cast]);

  // ---- Sections

  function headline() {
    const node = section("headline", "Headline figures");
    const cards = element("div", { class: "cards" });
    const card = (value, text) => cards.append(element("div", { class: "card" }, element("b", {}, value), element("span", {}, text)));
    const summary = data.summary || {};
    for (const [mapping, saved] of Object.entries(summary.layers_saved || {})) {
      card(`${shown(saved, 2)} of ${last}`, `layers saved by early exit with ${mapping}, at 95 % of the model's own tokens`);
    }
    if (summary.mat_beats_id) card(`${summary.mat_beats_id[0]} of ${summary.mat_beats_id[1]}`, "pairs of layers where mat has the higher r² of mat and id");
    for (const mapping of data.pair) {
      const best = (summary.best_r2 || {})[mapping];
      if (best) card(shown(best.r2, 3), `highest r² of ${mapping}, from layer ${best.from} to ${best.to}`);
    }
    const half = Math.floor(last / 2);
    for (const cast of data.pair) {
      const row = layers.find((row) => row.mapping === cast && row.layer === half);
      if (row) card(shown(row.precision_1, 3), `Precision@1 of ${cast} from layer ${half}, half way up`);
    }
    node.append(cards);
    resultTable(node);
  }

  function resultTable(node) {
    const toLast = new Map(r2.filter((row) => row.to === last).map((row) => [row.mapping + " " + row.from, row.r2]));
    const columns = [["mapping", "cast"], ["layer", "layer"], ["r2", "r² to last"], ["precision_1", "P@1"], ["precision_5", "P@5"], ["precision_10", "P@10"], ["surprisal", "surprisal"], ["kl", "KL"], ["loss", "loss"]];
    let rows = layers.map((row) => ({ ...row, r2: toLast.get(row.mapping + " " + row.layer) ?? null }));
    if (!rows.length) rows = r2.filter((row) => row.to === last).map((row) => ({ mapping: row.mapping, layer: row.from, r2: row.r2 }));
    const used = columns.filter(([key]) => rows.some((row) => row[key] !== null && row[key] !== undefined));
    const body = element("tbody");
    const heads = used.map(([key, text]) => {
      const head = element("th", { scope: "col", "aria-sort": "none" });
      head.append(element("button", { type: "button", "data-column": key, onclick: () => sort(key, head) }, text));
      return head;
    });
    const text = (row, key) => (key === "mapping" ? row[key] : key === "layer" ? String(row[key]) : shown(row[key], 3));
    function fill() {
      body.replaceChildren(...rows.map((row) => element("tr", {}, ...used.map(([key]) => {
        const cell = element("td", {}, text(row, key));
        const [lo, hi] = [row[key + "_lo"], row[key + "_hi"]];
        if (Number.isFinite(lo) && Number.isFinite(hi)) cell.append(" ", element("small", {}, `±${((hi - lo) / 2).toFixed(3)}`)), cell.title = `95 % interval ${interval(lo, hi)}`;
        return cell;
      }))));
    }
    function sort(key, head) {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const missing = (value) => value === null || value === undefined || Number.isNaN(value);
      rows.sort((a, b) => {
        const [x, y] = [a[key], b[key]];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
      fill();
    }
    const said = element("span", { role: "status" });
    const copy = element("button", { type: "button", id: "copy", onclick: async () => {
      const cell = (row, [key]) => (row[key] === null || row[key] === undefined ? "" : key === "mapping" ? marked(row[key]) : String(row[key]));
      const tabbed = [used.map(([key]) => key), ...rows.map((row) => used.map((column) => cell(row, column)))].map((cells) => cells.join("\t")).join("\n");
      said.textContent = (await copied(tabbed)) ? " Copied, with all digits" : " The browser does not let this page copy";
    } }, "Copy table");
    node.append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Results by cast and layer" },
      element("table", { class: "results" }, element("thead", {}, element("tr", {}, ...heads)), body)),
    element("p", {}, copy, said));
    fill();
  }

  async function copied(text) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* A page on disk may have no clipboard. */ }
    const area = element("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  const VIRIDIS = [[68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128], [94, 201, 98], [173, 220, 48], [253, 231, 37]];
  function shade(share) {
    if (Number.isNaN(share)) return "#8a8a8a";
    const place = Math.max(0, Math.min(1, share)) * 8, index = Math.min(7, Math.floor(place)), part = place - index;
    return `rgb(${VIRIDIS[index].map((from, color) => Math.round(from + part * (VIRIDIS[index + 1][color] - from))).join(",")})`;
  }

  function heatMap() {
    if (!r2.length) return;
    const node = section("r2", "r² between layers", "How much of the variance of a later layer's states a cast explains, on the validation samples. Colours are clipped at 0 and 1; hover or use the arrow keys for the numbers.");
    const state = { cast: castsOf(r2)[0], column: "r2" };
    const controls = element("div", { class: "controls" });
    const columns = [["r2", "validation"], ["r2_train", "training"]];
    controls.append(choice("Cast", "r2-cast", casesOf(castsOf(r2)), state.cast, false, (cast) => { state.cast = cast; redraw(); }),
      choice("Samples", "r2-samples", columns, "r2", false, (column) => { state.column = column; redraw(); }));
    const side = 400 / Math.max(1, last);
    const picture = drawn("svg", { viewBox: "0 0 500 460", class: "heat", tabindex: "0", role: "application", "aria-label": "r² by source and target layer: arrow keys go from cell to cell" });
    const readout = element("table", { class: "readout", "aria-live": "polite" });
    node.append(controls, element("div", { class: "figure" }, element("div", { class: "chart" }, picture), readout));
    const at = { from: 0, to: Math.min(1, last) };
    let cells = new Map();
    function redraw() {
      cells = new Map(r2.filter((row) => row.mapping === state.cast).map((row) => [row.from + " " + row.to, row]));
      picture.replaceChildren();
      const step = Math.max(1, Math.ceil(last / 8));
      for (const row of cells.values()) {
        const cell = drawn("rect", { x: 50 + side * (row.to - 1), y: 4 + side * row.from, width: side + .3, height: side + .3, fill: shade(row[state.column]), "data-from": row.from, "data-to": row.to });
        cell.addEventListener("pointerenter", () => read(row.from, row.to));
        cell.addEventListener("click", () => read(row.from, row.to));
        picture.append(cell);
      }
      for (let layer = 0; layer <= last; layer += step) {
        if (layer < last) picture.append(drawn("text", { x: 42, y: 8.5 + side * (layer + .5), "text-anchor": "end" }, String(layer)));
        if (layer > 0) picture.append(drawn("text", { x: 50 + side * (layer - .5), y: 424, "text-anchor": "middle" }, String(layer)));
      }
      picture.append(drawn("text", { x: 250, y: 448, "text-anchor": "middle" }, "target layer ℓ′"), drawn("text", { transform: "translate(14 204) rotate(-90)", "text-anchor": "middle" }, "source layer ℓ"));
      for (let step = 0; step <= 40; step++) picture.append(drawn("rect", { x: 463, y: 4 + 9.75 * (40 - step), width: 12, height: 10.2, fill: shade(step / 40) }));
      for (const [share, text] of [[0, "≤0"], [.5, ".5"], [1, "1"]]) picture.append(drawn("text", { x: 478, y: 400 - 386 * share }, text));
      picture.append(drawn("rect", { class: "at", width: side, height: side }));
      picture.dataset.drawn = Number(picture.dataset.drawn || 0) + 1;
      if (!cells.has(at.from + " " + at.to)) [at.from, at.to] = [...(cells.keys().next().value || "0 1").split(" ").map(Number)];
      read(at.from, at.to);
    }
    function read(from, to) {
      const row = cells.get(from + " " + to);
      if (!row) return;
      [at.from, at.to] = [from, to];
      const frame = picture.querySelector(".at");
      frame.setAttribute("x", 50 + side * (to - 1));
      frame.setAttribute("y", 4 + side * from);
      const lines = castsOf(r2).map((cast) => {
        const row = r2.find((row) => row.mapping === cast && row.from === from && row.to === to);
        return element("tr", { "data-series": cast }, element("th", { scope: "row" }, cast), element("td", { class: "value" }, row ? shown(row[state.column]) : "–"));
      });
      readout.replaceChildren(element("caption", {}, `layer ${from} to ${to}`), element("tbody", {}, ...lines));
    }
    picture.addEventListener("keydown", (event) => {
      const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      if (down === undefined) return;
      event.preventDefault();
      read(at.from + down, at.to + across);
    });
    redraw();
  }

  const MEASURES = [["precision_1", "Precision@1"], ["precision_5", "Precision@5"], ["precision_10", "Precision@10"], ["surprisal", "surprisal (nats)"], ["kl", "KL(model ‖ cast) (nats)"], ["loss", "loss (nats)"]];

  function byLayer() {
    if (!layers.length) return;
    const node = section("layers", "Predictions by layer", "Precision@k is the share of samples whose cast has its top token among the model's top k; surprisal is −ln of the model's probability of that token. Shading is the 95 % bootstrap interval.");
    const casts = castsOf(layers), state = { measure: "precision_1", casts: casts.filter((cast) => data.pair.includes(cast)) };
    if (!state.casts.length) state.casts = casts.slice(0, 2);
    const measures = MEASURES.filter(([key]) => layers.some((row) => row[key] !== null && row[key] !== undefined));
    const label = () => measures.find(([key]) => key === state.measure)[1];
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Predictions by layer", () => ({
      x: "layer", y: label(), range: state.measure.startsWith("precision") ? [-0.02, 1.02] : undefined,
      series: state.casts.map((cast) => line(cast, layers.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({
        x: row.layer, y: row[state.measure], lo: row[state.measure + "_lo"], hi: row[state.measure + "_hi"],
      })))),
    }));
    controls.append(menu("Measure", measures, state.measure, (measure) => { state.measure = measure; redraw(); }),
      choice("Casts", "layer-casts", casesOf(casts), state.casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); redraw(); }));
  }

  function earlyExit() {
    if (!exits.length || !layers.length) return;
    const node = section("early-exit", "Early exit", "Exit at the first layer that is sure enough (whole lines, a point for each λ), against exit at a fixed layer (dashed).");
    const casts = castsOf(exits), state = { k: "precision_1", casts };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Early exit", () => ({
      x: "layers processed", y: state.k.replace("precision_", "Precision@"), range: [-0.02, 1.02],
      series: state.casts.flatMap((cast) => [
        line(cast, exits.filter((row) => row.mapping === cast).sort((a, b) => a.layers_processed - b.layers_processed).map((row) => ({ x: row.layers_processed, y: row[state.k], also: `λ = ${row.lambda}` })), cast + ", early", []),
        line(cast, layers.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({ x: row.layer, y: row[state.k], lo: null, hi: null, also: `layer ${row.layer}` })), cast + ", fixed", [6, 5]),
      ]),
    }));
    controls.append(choice("k", "exit-k", [["precision_1", "1"], ["precision_5", "5"], ["precision_10", "10"]], state.k, false, (k) => { state.k = k; redraw(); }),
      choice("Casts", "exit-casts", casesOf(casts), casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); redraw(); }));
  }

  function agreement() {
    if (!exitLayers.length) return;
    const node = section("agreement", "Where samples exit", "For one λ: the share of the samples that exit at each layer, and the share of these that have the model's own token.");
    const casts = castsOf(exitLayers);
    const lambdas = (cast) => unique(exitLayers.filter((row) => row.mapping === cast).map((row) => row.lambda)).sort((a, b) => a - b);
    const state = { cast: casts[0], lambda: lambdas(casts[0]).reduce((best, value) => (Math.abs(value - .4) < Math.abs(best - .4) ? value : best)) };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Where samples exit", () => {
      const rows = exitLayers.filter((row) => row.mapping === state.cast && row.lambda === state.lambda).sort((a, b) => a.layer - b.layer);
      const points = (key) => rows.map((row) => ({ x: row.layer, y: row[key] }));
      return { x: "layer", y: "share", range: [-0.02, 1.02], series: [{ ...line(state.cast, points("share"), "exit here"), dash: [] }, { ...line(state.cast, points("precision_1"), "of these, right"), color: "grey", dash: [5, 4] }] };
    });
    const lambdaMenu = () => menu("λ", lambdas(state.cast).map((value) => [String(value), String(value)]), String(state.lambda), (value) => { state.lambda = Number(value); redraw(); });
    let shownMenu = lambdaMenu();
    controls.append(choice("Cast", "agreement-cast", casesOf(casts), state.cast, false, (cast) => {
      state.cast = cast;
      if (!lambdas(cast).includes(state.lambda)) state.lambda = lambdas(cast)[0];
      const next = lambdaMenu();
      shownMenu.replaceWith(next);
      shownMenu = next;
      redraw();
    }), shownMenu);
  }

  function rankOfToken() {
    if (!ranks.length) return;
    const node = section("rank", "Rank of the model's token", "Where the model's own top token stands in the order of a cast's logits: median, with quartiles.");
    const casts = castsOf(ranks), state = { casts: casts.filter((cast) => data.pair.includes(cast)) };
    if (!state.casts.length) state.casts = casts.slice(0, 2);
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Rank of the model's token by layer", () => ({
      x: "layer", y: "rank", log: true,
      series: state.casts.map((cast) => line(cast, ranks.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({ x: row.layer, y: row.median, lo: row.lower_quartile, hi: row.upper_quartile })))),
    }));
    controls.append(choice("Casts", "rank-casts", casesOf(casts), state.casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); redraw(); }));
  }

  function spectra() {
    const from = Object.keys(data.spectra || {}).map(Number).sort((a, b) => a - b);
    if (!from.length) return;
    const node = section("spectra", "Spectra of the maps to the last layer", "Singular values of A from a layer to the last one; the effective rank is exp of the entropy of their shares.");
    const state = { layer: from[Math.floor(from.length / 2)] };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Singular values", () => ({ x: "index", y: "singular value", log: true, logX: true, series: [line(data.spectra_of, data.spectra[state.layer].map(([x, y]) => ({ x, y })), `from layer ${state.layer}`)] }));
    controls.append(menu("Source layer", from.map((layer) => [String(layer), String(layer)]), String(state.layer), (layer) => { state.layer = Number(layer); redraw(); }));
    lineChart(node, "Effective rank by layer", () => ({ x: "layer", y: "effective rank", series: [line(data.spectra_of, data.effective_rank.map(([x, y]) => ({ x, y })), "effective rank")] }));
  }

  function lens() {
    const sentences = (data.lens && data.lens.sentences) || [];
    if (!sentences.length) return;
    const node = section("lens", "What each layer predicts", "The top token of a cast from every layer at every position, the stronger the colour the more probable; hover or use the arrow keys for the runners-up. A frame is the layer of exit, where it is known.");
    const state = { sentence: 0, cast: 0 };
    const controls = element("div", { class: "controls" });
    const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Top tokens by layer and position" });
    const readout = element("table", { class: "readout", "aria-live": "polite" });
    const hidden = /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
    const visible = (text) => (text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(hidden, (c) => `\\u{${c.codePointAt(0).toString(16)}}`));
    function redraw() {
      const sentence = sentences[state.sentence];
      const cast = sentence.casts[Math.min(state.cast, sentence.casts.length - 1)];
      const casts = sentence.casts.map((cast, index) => [String(index), cast.cast]);
      controls.replaceChildren(
        menu("Sentence", sentences.map((other, index) => [String(index), `${index + 1}: ${visible((other.text || "").slice(0, 40))}`]), String(state.sentence), (index) => { state.sentence = Number(index); redraw(); }),
        choice("Cast", "lens-cast", casts, String(state.cast), false, (index) => { state.cast = Number(index); redraw(); }));
      const head = element("tr", {}, element("th", {}, "ℓ"), ...sentence.tokens.map((token) => element("th", { scope: "col" }, visible(token.text))));
      const rows = cast.layers.map((layer, row) => {
        const cells = cast.cells[row].map((cell, position) => {
          const top = cell.top[0];
          const share = top ? top.probability : NaN;
          const exit = cast.exit_layer && cast.exit_layer[position] === layer;
          const node = element("td", { tabindex: row === cast.layers.length - 1 && position === 0 ? 0 : -1, class: exit ? "exit" : null, "data-row": row, "data-position": position }, top ? visible(top.text) : "–");
          const strength = Number.isFinite(share) ? Math.round(5 + 95 * share) : 0;
          node.style.background = `color-mix(in srgb, var(--cell) ${strength}%, var(--ground))`;
          node.addEventListener("pointerenter", () => read(cell, layer, position));
          node.addEventListener("focus", () => read(cell, layer, position));
          return node;
        });
        return element("tr", {}, element("th", { scope: "row" }, String(layer)), ...cells);
      });
      scroll.replaceChildren(element("table", { class: "lens" }, element("thead", {}, head), element("tbody", {}, ...rows.reverse())));
      scroll.dataset.drawn = Number(scroll.dataset.drawn || 0) + 1;
      const end = cast.layers.length - 1;
      read(cast.cells[end][0], cast.layers[end], 0);
      function read(cell, layer, position) {
        const lines = cell.top.map((token) => element("tr", {}, element("th", { scope: "row" }, visible(token.text)), element("td", { class: "value" }, shown(token.probability))));
        if (Number.isFinite(cell.surprisal)) lines.push(element("tr", {}, element("th", { scope: "row" }, "surprisal"), element("td", {}, shown(cell.surprisal))));
        readout.replaceChildren(element("caption", {}, `layer ${layer}, position ${position}`), element("tbody", {}, ...lines));
      }
    }
    scroll.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      const [up, right] = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      if (!cell || up === undefined) return;
      const next = scroll.querySelector(`td[data-row="${Number(cell.dataset.row) + up}"][data-position="${Number(cell.dataset.position) + right}"]`);
      if (!next) return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    node.append(controls, element("div", { class: "figure" }, scroll, readout));
    redraw();
  }

  function origin() {
    const node = section("origin", "Where this is from");
    const links = (paths) => element("ul", { class: "files" }, ...paths.map((path) => element("li", {}, element("a", { href: path }, path))));
    if (data.tables.length) node.append(element("p", {}, "Result tables, beside this page:"), links(data.tables));
    if (data.figures.length) {
      const named = unique(data.figures.map((path) => path.replace(/\.\w+$/, "")));
      const formats = (name) => data.figures.filter((path) => path.replace(/\.\w+$/, "") === name)
        .map((path) => element("li", {}, element("a", { href: path }, path.split(".").pop())));
      node.append(element("p", {}, "Figures:"), element("ul", { class: "files" }, ...named.map((name) => element("li", {}, name.split("/").pop(), element("ul", {}, ...formats(name))))));
    }
    if (data.manifest) node.append(element("details", {}, element("summary", {}, "The run's manifest"), element("pre", { tabindex: 0 }, JSON.stringify(data.manifest, null, 2))));
  }

  function facts() {
    document.getElementById("title").textContent = data.title;
    document.getElementById("version").textContent = data.version;
    const manifest = data.manifest || {};
    const parts = [];
    if (last) parts.push(`${last} layers`);
    const counts = data.summary || manifest;
    if (counts.train) parts.push(`${counts.train} training and ${counts.val} validation samples`);
    const corpus = (manifest.corpus || manifest.train_samples || {}).id;
    if (corpus) parts.push(`from ${corpus}`);
    if (manifest.seed !== undefined) parts.push(`seed ${manifest.seed}`);
    if (manifest.unread) parts.push(`went unread by leave: ${manifest.unread.join(", ")}`);
    document.getElementById("facts").textContent = parts.join(", ");
  }

  function theme() {
    const button = document.getElementById("theme");
    const wanted = matchMedia("(prefers-color-scheme: dark)");
    const set = (dark) => {
      root.dataset.theme = dark ? "dark" : "light";
      button.textContent = dark ? "Light" : "Dark";
      button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
      charts.forEach((redraw) => redraw());
    };
    set(wanted.matches);
    wanted.addEventListener("change", (event) => set(event.matches));
    button.addEventListener("click", () => set(root.dataset.theme !== "dark"));
  }

  function warnings() {
    for (const line of data.warnings || []) {
      main.append(element("p", { class: "warning", role: "alert" }, element("b", {}, "Warning: "), ...coded(line)));
    }
  }

  theme();
  facts();
  warnings();
  for (const show of [headline, heatMap, byLayer, earlyExit, agreement, rankOfToken, spectra, lens, origin]) {
    // What cannot be shown, of a file that another version wrote say, leaves the rest alone.
    try { show(); } catch (error) {
      console.error(error);
      main.append(element("p", { class: "note" }, `A part of this page could not be shown: ${error.message}`));
    }
  }
  // The figures' font may come after the first drawing.
  document.fonts.ready.then(() => charts.forEach((redraw) => redraw()));
})();
