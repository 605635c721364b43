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

  const sections = [];

  function section(id, title, note) {
    const head = element("h2", { id: id + "-title", tabindex: -1 }, title);
    const node = element("section", { id, "aria-labelledby": id + "-title" }, head);
    if (note) node.append(element("p", { class: "note" }, ...coded(note)));
    main.append(node);
    sections.push({ id, title, node, head });
    return node;
  }

  // ---- The words, explained where they stand.

  const WORDS = {
    layer: "Layer 0 is the embedding of a token, layer l the output of block l, and the last layer what the model predicts from. Layer 0 is at the top of every grid and table.",
    state: "The hidden state: the vector that a layer holds for a token.",
    cast: "A way to turn the state of an earlier layer into a prediction at once, in place of running the blocks between.",
    precision: "The share of samples where the cast's most probable token is among the model's own k most probable ones. @1 asks for the same token.",
    surprisal: "−ln of the probability that the whole model gives to the cast's token, in nats (1 nat is 1.44 bits): low where the model finds that token likely too.",
    kl: "The Kullback–Leibler divergence of the cast's distribution from the model's, in nats: 0 where they are the same.",
    loss: "The cross-entropy of the true token under the cast, in nats: what a language model is trained to make small.",
    interval: "The range in which the figure would lie in 95 of 100 draws of as many sentences (bootstrap).",
    r2: "The coefficient of determination, r²: the share of the variance of the later layer's states that the cast explains. 1 is exact, 0 is no better than their mean, below 0 worse than it.",
    split: "Maps are fitted on the training samples and measured on the validation samples, which they have not seen.",
    sample: "A sentence with one position in it: the cast predicts the token that the model predicts there.",
    probability: "How likely the cast finds a token, from 0 to 1.",
    exit: "Early exit: a sample leaves the model at the first layer whose prediction is confident enough, and the blocks after it are not run.",
    lambda: "λ sets how confident a prediction has to be for an exit: the larger, the later.",
    confidence: "The probability of the cast's most probable token less that of its second.",
    saved: "The layers of the model less the mean layer of exit, for the smallest λ at which 95 % of the tokens are the model's own.",
    rank: "The place of the model's own token in the order of the cast's probabilities: 1 is the first.",
    quartile: "A quarter of the samples has a rank below the lower quartile, half below the median, three quarters below the upper.",
    spectrum: "The singular values of a map: by how much it stretches each of its main directions.",
    effective: "Effective rank: how many directions a map or a layer's states really use, exp of the entropy of the shares of the singular values.",
    condition: "Condition: the largest singular value over the smallest. Where it is large, small errors of the states become large ones of the map.",
    coordinate: "The share of all variance that lies in the one coordinate of the state with the most of it.",
    first: "The share of the spread that comes from samples at the first position of a sentence, which many models use as an attention sink.",
    curve: "Learning curve: r² of maps that were fitted on a part of the samples. While the validation curve still rises, more samples would help; a large gap between the curves means that the map fits noise.",
  };
  const NAMES = {
    layer: "layer", state: "state", cast: "cast", precision: "Precision@k, P@k", surprisal: "surprisal", kl: "KL", loss: "loss", interval: "interval, ±", r2: "r²",
    split: "training, validation", sample: "sample", probability: "probability", exit: "early exit", lambda: "λ", confidence: "confidence", saved: "layers saved",
    rank: "rank of the model's token", quartile: "median, quartiles", spectrum: "singular values", effective: "effective rank", condition: "condition",
    coordinate: "top coordinate", first: "position 0", curve: "learning curve",
  };

  /** A list of what the words of a section mean, that opens by mouse, touch and keys; `casts` are explained with them. */
  function explained(node, words, casts = []) {
    const list = element("dl", {});
    for (const word of words) list.append(element("dt", {}, NAMES[word]), element("dd", {}, WORDS[word]));
    for (const cast of casts) {
      if (data.meanings[cast]) list.append(element("dt", {}, element("code", {}, cast)), element("dd", {}, data.meanings[cast]));
    }
    node.append(element("details", { class: "words" }, element("summary", {}, "What the words mean"), list));
  }

  // ---- The address: after the `#` the section, then what was chosen, so that a copied address shows the same.

  const address = { section: "", chosen: new Map() };

  function readAddress() {
    const [at, ...pairs] = location.hash.slice(1).split("&");
    const plain = (text) => { try { return decodeURIComponent(text); } catch { return ""; } };
    address.section = plain(at);
    address.chosen = new Map(pairs.map((pair) => pair.split("=").map(plain)).filter((pair) => pair.length === 2));
  }

  function writeAddress() {
    const pairs = [...address.chosen].map((pair) => pair.map(encodeURIComponent).join("="));
    const hash = "#" + [encodeURIComponent(address.section), ...pairs].join("&");
    try { history.replaceState(null, "", hash); } catch { /* Some viewers of files have no history. */ }
  }

  /** What the address says of `name`, if it is among `allowed`; else `usual`. */
  function recalled(name, usual, allowed) {
    const said = address.chosen.get(name);
    return said !== undefined && allowed.includes(said) ? said : usual;
  }
  const recalledMany = (name, usual, allowed) => {
    const said = address.chosen.get(name);
    const chosen = said === undefined ? [] : said.split(" ").filter((value) => allowed.includes(value));
    return chosen.length || said === "" ? chosen : usual;
  };

  /** Puts a choice within `node` into the address; what is usual is left out of it. */
  function remember(node, name, value, usual) {
    const [said, otherwise] = [value, usual].map((value) => (Array.isArray(value) ? value.join(" ") : String(value)));
    if (said === otherwise) address.chosen.delete(name);
    else address.chosen.set(name, said);
    address.section = node.id;
    writeAddress();
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
    const node = section("headline", "Headline figures", "The run in a few numbers, then every cast from every layer.");
    explained(node, ["layer", "cast", "exit", "saved", "r2", "precision", "surprisal", "kl", "loss", "interval"].filter((word) => layers.length || !["precision", "surprisal", "kl", "loss", "exit", "saved", "interval"].includes(word)), castsOf(layers.length ? layers : r2));
    const cards = element("div", { class: "cards" });
    const card = (value, text) => cards.append(element("div", { class: "card" }, element("b", {}, value), element("span", {}, text)));
    const summary = data.summary || {};
    for (const [mapping, saved] of Object.entries(summary.layers_saved || {})) {
      card(`${shown(saved, 2)} of ${last}`, `layers saved by early exit with ${mapping}, while 95 % of the tokens are the model's own`);
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
    const original = [...rows];
    const heads = used.map(([key, text]) => {
      const head = element("th", { scope: "col", "aria-sort": "none" });
      head.append(element("button", { type: "button", "data-column": key, onclick: () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        sort(key, down);
        remember(node, "sort", key + (down ? " down" : ""), "");
      } }, text));
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
    function sort(key, down) {
      const head = heads[used.findIndex(([column]) => column === key)];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const missing = (value) => value === null || value === undefined || Number.isNaN(value);
      rows = [...original].sort((a, b) => {
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
    const [key, down] = (address.chosen.get("sort") || "").split(" ");
    if (used.some(([column]) => column === key)) sort(key, down === "down");
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
    const node = section("r2", "r² between layers", "How much of the variance of a later layer's states a cast explains. A row is the layer that is cast from, layer 0 at the top, a column the layer that is cast to. Colours end at 0 and 1; point, touch or use the arrow keys for the numbers.");
    explained(node, ["r2", "layer", "cast", "split"], castsOf(r2));
    const usual = { cast: castsOf(r2)[0], column: "r2" };
    const state = { cast: recalled("r2.cast", usual.cast, castsOf(r2)), column: recalled("r2.on", usual.column, ["r2", "r2_train"]) };
    const controls = element("div", { class: "controls" });
    const columns = [["r2", "validation"], ["r2_train", "training"]];
    controls.append(choice("Cast", "r2-cast", casesOf(castsOf(r2)), state.cast, false, (cast) => { state.cast = cast; remember(node, "r2.cast", cast, usual.cast); redraw(); }),
      choice("Measured on", "r2-samples", columns, state.column, false, (column) => { state.column = column; remember(node, "r2.on", column, usual.column); redraw(); }));
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
    const node = section("layers", "Predictions by layer", "How good the prediction of each cast is from each layer on. At the last layer every cast is the model itself. Shading is the 95 % interval.");
    const casts = castsOf(layers);
    explained(node, ["precision", "surprisal", "kl", "loss", "layer", "interval"], casts);
    const measures = MEASURES.filter(([key]) => layers.some((row) => row[key] !== null && row[key] !== undefined));
    const paired = casts.filter((cast) => data.pair.includes(cast));
    const usual = { measure: "precision_1", casts: paired.length ? paired : casts.slice(0, 2) };
    const state = { measure: recalled("layers.measure", usual.measure, measures.map(([key]) => key)), casts: recalledMany("layers.casts", usual.casts, casts) };
    const label = () => measures.find(([key]) => key === state.measure)[1];
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Predictions by layer", () => ({
      x: "layer", y: label(), range: state.measure.startsWith("precision") ? [-0.02, 1.02] : undefined,
      series: state.casts.map((cast) => line(cast, layers.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({
        x: row.layer, y: row[state.measure], lo: row[state.measure + "_lo"], hi: row[state.measure + "_hi"],
      })))),
    }));
    controls.append(menu("Measure", measures, state.measure, (measure) => { state.measure = measure; remember(node, "layers.measure", measure, usual.measure); redraw(); }),
      choice("Casts", "layer-casts", casesOf(casts), state.casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); remember(node, "layers.casts", state.casts, usual.casts); redraw(); }));
  }

  function earlyExit() {
    if (!exits.length || !layers.length) return;
    const node = section("early-exit", "Early exit", "Exit at the first layer that is confident enough (solid lines, a point for each λ), compared with exit at a fixed layer (dashed). Further to the left is less work, higher up more agreement with the whole model.");
    const casts = castsOf(exits), ks = ["precision_1", "precision_5", "precision_10"];
    explained(node, ["exit", "lambda", "confidence", "precision", "saved"], casts);
    const state = { k: recalled("exit.k", ks[0], ks), casts: recalledMany("exit.casts", casts, casts) };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Early exit", () => ({
      x: "layers processed", y: state.k.replace("precision_", "Precision@"), range: [-0.02, 1.02],
      series: state.casts.flatMap((cast) => [
        line(cast, exits.filter((row) => row.mapping === cast).sort((a, b) => a.layers_processed - b.layers_processed).map((row) => ({ x: row.layers_processed, y: row[state.k], also: `λ = ${row.lambda}` })), cast + ", early", []),
        line(cast, layers.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({ x: row.layer, y: row[state.k], lo: null, hi: null, also: `layer ${row.layer}` })), cast + ", fixed", [6, 5]),
      ]),
    }));
    controls.append(choice("k", "exit-k", [["precision_1", "1"], ["precision_5", "5"], ["precision_10", "10"]], state.k, false, (k) => { state.k = k; remember(node, "exit.k", k, ks[0]); redraw(); }),
      choice("Casts", "exit-casts", casesOf(casts), state.casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); remember(node, "exit.casts", state.casts, casts); redraw(); }));
  }

  function agreement() {
    if (!exitLayers.length) return;
    const node = section("agreement", "Where samples exit", "For one λ: the share of the samples that have exited up to each layer, the share that exits at it, and how many of these have the model's own token.");
    const casts = castsOf(exitLayers);
    explained(node, ["exit", "lambda", "confidence", "layer"], casts);
    const lambdas = (cast) => unique(exitLayers.filter((row) => row.mapping === cast).map((row) => row.lambda)).sort((a, b) => a - b);
    const usualOf = (cast) => lambdas(cast).reduce((best, value) => (Math.abs(value - .4) < Math.abs(best - .4) ? value : best));
    const state = { cast: recalled("agreement.cast", casts[0], casts) };
    state.lambda = Number(recalled("agreement.lambda", String(usualOf(state.cast)), lambdas(state.cast).map(String)));
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Where samples exit", () => {
      const rows = exitLayers.filter((row) => row.mapping === state.cast && row.lambda === state.lambda).sort((a, b) => a.layer - b.layer);
      let sum = 0;
      const upTo = rows.map((row) => ({ x: row.layer, y: Math.min(1, sum += row.share) }));
      const points = (key) => rows.map((row) => ({ x: row.layer, y: row[key] }));
      return {
        x: "layer", y: "share of the samples", range: [-0.02, 1.02], series: [
          { ...line(state.cast, upTo, "exited up to here"), dash: [] },
          { ...line(state.cast, points("share"), "exit here"), dash: [3, 4] },
          { ...line(state.cast, points("precision_1"), "of these, right"), color: "grey", dash: [9, 5] },
        ],
      };
    });
    const lambdaMenu = () => menu("λ", lambdas(state.cast).map((value) => [String(value), String(value)]), String(state.lambda), (value) => { state.lambda = Number(value); chosen(); });
    const chosen = () => {
      remember(node, "agreement.cast", state.cast, casts[0]);
      remember(node, "agreement.lambda", state.lambda, usualOf(state.cast));
      redraw();
    };
    let shownMenu = lambdaMenu();
    controls.append(choice("Cast", "agreement-cast", casesOf(casts), state.cast, false, (cast) => {
      state.cast = cast;
      if (!lambdas(cast).includes(state.lambda)) state.lambda = usualOf(cast);
      const next = lambdaMenu();
      shownMenu.replaceWith(next);
      shownMenu = next;
      chosen();
    }), shownMenu);
  }

  function rankOfToken() {
    if (!ranks.length) return;
    const node = section("rank", "Rank of the model's token", "Which place the model's own token has among the tokens of a cast: the median over the samples, shaded from the lower to the upper quartile.");
    const casts = castsOf(ranks), paired = casts.filter((cast) => data.pair.includes(cast)), usual = paired.length ? paired : casts.slice(0, 2);
    explained(node, ["rank", "quartile", "layer"], casts);
    const state = { casts: recalledMany("rank.casts", usual, casts) };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Rank of the model's token by layer", () => ({
      x: "layer", y: "rank", log: true,
      series: state.casts.map((cast) => line(cast, ranks.filter((row) => row.mapping === cast).sort((a, b) => a.layer - b.layer).map((row) => ({ x: row.layer, y: row.median, lo: row.lower_quartile, hi: row.upper_quartile })))),
    }));
    controls.append(choice("Casts", "rank-casts", casesOf(casts), state.casts, true, (chosen) => { state.casts = casts.filter((cast) => chosen.includes(cast)); remember(node, "rank.casts", state.casts, usual); redraw(); }));
  }

  function spectra() {
    const from = Object.keys(data.spectra || {}).map(Number).sort((a, b) => a - b);
    if (!from.length) return;
    const node = section("spectra", "Spectra of the maps to the last layer", "How many directions of a state a map passes on: the singular values of the map from one layer to the last, and the effective rank of each layer's map.");
    explained(node, ["spectrum", "effective", "layer"], [data.spectra_of]);
    const usual = from[Math.floor(from.length / 2)];
    const state = { layer: Number(recalled("spectra.layer", String(usual), from.map(String))) };
    const controls = element("div", { class: "controls" });
    node.append(controls);
    const redraw = lineChart(node, "Singular values", () => ({ x: "index", y: "singular value", log: true, logX: true, series: [line(data.spectra_of, data.spectra[state.layer].map(([x, y]) => ({ x, y })), `from layer ${state.layer}`)] }));
    controls.append(menu("Source layer", from.map((layer) => [String(layer), String(layer)]), String(state.layer), (layer) => { state.layer = Number(layer); remember(node, "spectra.layer", layer, usual); redraw(); }));
    lineChart(node, "Effective rank by layer", () => ({ x: "layer", y: "effective rank", series: [line(data.spectra_of, data.effective_rank.map(([x, y]) => ({ x, y })), "effective rank")] }));
  }

  // ---- Texts: tokens come as numbers in `data.texts`, ready to be shown, none empty.

  const SHARE = 1000, NATS = 100;
  const textOf = (number) => data.texts[number];
  const percent = (share) => (share === undefined ? "" : `${(100 * share / SHARE).toFixed(1)} %`);

  /** Tokens as they stand in a text: a space where one has it, or, of word pieces, before each that begins a word. */
  function written(tokens) {
    const texts = tokens.map(textOf), arePieces = texts.some((text) => text.startsWith("##")) || !texts.some((text) => text.includes("·"));
    return texts.map((text, place) => {
      if (!arePieces) return text.replaceAll("·", " ");
      return text.startsWith("##") ? text.slice(2) : (place > 0 ? " " : "") + text;
    });
  }

  /** Colours a tile by a probability in thousandths. */
  function tinted(tile, share) {
    const strength = share === undefined ? 0 : Math.round(5 + 95 * share / SHARE);
    tile.style.background = `color-mix(in srgb, var(--cell) ${strength}%, var(--ground))`;
    return tile;
  }

  /** Arrow keys go from tile to tile of a grid whose tiles have `data-row` and `data-column`. */
  function walked(scroll) {
    scroll.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      if (!cell || down === undefined) return;
      const next = scroll.querySelector(`td[data-row="${Number(cell.dataset.row) + down}"][data-column="${Number(cell.dataset.column) + right}"]`);
      if (!next) return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  /** A grid: a line for each of `layers`, from layer 0 down; `tile(row, column)` makes a cell, `read` is told where one is. */
  function grid(heads, layers, label, tile, read, at) {
    const scroll = element("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 });
    const rows = layers.map((layer, row) => element("tr", {}, element("th", { scope: "row" }, String(layer)), ...heads.map((_, column) => {
      const cell = tile(row, column);
      Object.assign(cell.dataset, { row, column });
      cell.tabIndex = row === at.row && column === at.column ? 0 : -1;
      for (const event of ["focus", "click"]) cell.addEventListener(event, () => read(row, column, true));
      // Of a pointer that rests, while what is under it scrolls away, nothing is read.
      cell.addEventListener("pointermove", (event) => { if (event.movementX || event.movementY) read(row, column, false); });
      return cell;
    })));
    scroll.append(element("table", { class: "lens" }, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "layer"), ...heads)), element("tbody", {}, ...rows)));
    walked(scroll);
    return scroll;
  }

  /** Frames the tile of a grid that is read. */
  function mark(place, row, column) {
    place.querySelector("td.here")?.classList.remove("here");
    place.querySelector(`td[data-row="${row}"][data-column="${column}"]`)?.classList.add("here");
  }

  /** The cast with the lowest mean surprisal below the last layer, of those that are maps of states; else the first. */
  function bestOf(casts) {
    const mean = (cast) => {
      const rows = layers.filter((row) => row.mapping === cast && row.layer < last);
      return rows.length ? rows.reduce((sum, row) => sum + row.surprisal, 0) / rows.length : NaN;
    };
    const exiting = new Set(exits.map((row) => row.mapping));
    return casts.filter((cast) => exiting.has(cast) && Number.isFinite(mean(cast))).reduce((best, cast) => (best === null || mean(cast) < mean(best) ? cast : best), null) || casts[0];
  }

  function lens() {
    const sentences = data.lens || [];
    if (!sentences.length) return;
    const node = section("lens", "What each layer predicts", "Each column is a token of the sentence, each row a layer, layer 0 at the top. A tile is the token that the cast finds most probable from there: for a model that writes from left to right the next token, for `[MASK]` the one that was there. The stronger the colour, the more probable; `·` is a space.");
    const all = unique(sentences.flatMap((sentence) => sentence.casts.map((cast) => cast.cast)));
    explained(node, ["layer", "state", "cast", "probability", "surprisal"], all);
    const usual = { sentence: "0", cast: bestOf(all) };
    const state = {
      sentence: Number(recalled("lens.sentence", usual.sentence, sentences.map((_, index) => String(index)))),
      cast: recalled("lens.cast", usual.cast, all), layer: null, position: null,
    };
    const said = { layer: address.chosen.get("lens.layer"), position: address.chosen.get("lens.position") };
    const controls = element("div", { class: "controls" });
    const place = element("div", { class: "grid" });
    const readout = element("div", { class: "readouts", "aria-live": "polite" });
    const across = element("div", {});
    node.append(controls, element("div", { class: "figure" }, place, readout), across);

    function redraw() {
      const sentence = sentences[state.sentence];
      const cast = sentence.casts.find((cast) => cast.cast === state.cast) || sentence.casts[0];
      const width = sentence.tokens.length;
      controls.replaceChildren(
        menu("Sentence", sentences.map((other, index) => [String(index), `${index + 1}: ${other.text.slice(0, 40)}`]), String(state.sentence), (index) => {
          state.sentence = Number(index);
          state.position = null;
          remember(node, "lens.sentence", index, usual.sentence);
          redraw();
        }),
        choice("Cast", "lens-cast", casesOf(sentence.casts.map((cast) => cast.cast)), cast.cast, false, (chosen) => {
          state.cast = chosen;
          remember(node, "lens.cast", chosen, usual.cast);
          redraw();
        }));
      const end = cast.layers.length - 1;
      const within = (said, usual, most) => Math.max(0, Math.min(most, said === undefined ? usual : Number.parseInt(said, 10) || 0));
      if (state.layer === null) state.layer = within(said.layer, Math.ceil(end / 2), end);
      // Where something is masked, that is what is asked for.
      const masked = sentence.tokens.findIndex((token) => textOf(token) === "[MASK]");
      if (state.position === null) state.position = within(said.position, masked < 0 ? Math.floor(width / 2) : masked, width - 1);
      said.position = undefined;
      const heads = sentence.tokens.map((token, position) => element("th", { scope: "col" }, element("small", {}, String(position)), textOf(token)));
      const tile = (row, position) => {
        const cell = row * width + position;
        const exits = cast.exit && cast.exit[position] === cast.layers[row];
        const [token, share] = [cast.t[cell][0], cast.p[cell][0]];
        return tinted(element("td", { class: exits ? "exit" : null, "aria-label": exits ? `${textOf(token)}, exit` : null }, token === undefined ? "–" : textOf(token)), share);
      };
      place.replaceChildren(grid(heads, cast.layers, "Top tokens by layer and position", tile, read, { row: state.layer, column: state.position }));
      if (cast.exit) place.append(element("p", { class: "note" }, "A frame marks the layer of early exit."));
      place.dataset.drawn = Number(place.dataset.drawn || 0) + 1;
      read(state.layer, state.position, false);

      function read(row, position, keep) {
        const cell = row * width + position;
        mark(place, row, position);
        const lines = cast.t[cell].map((token, place) => element("tr", {}, element("th", { scope: "row" }, textOf(token)), element("td", { class: "value" }, percent(cast.p[cell][place]))));
        if (!lines.length) lines.push(element("tr", {}, element("th", { scope: "row" }, "no prediction: the state is not finite")));
        if (cast.s[cell] !== null) lines.push(element("tr", { class: "also" }, element("th", { scope: "row" }, "surprisal of the first"), element("td", {}, `${(cast.s[cell] / NATS).toFixed(2)} nats`)));
        readout.replaceChildren(element("table", { class: "readout" }, element("caption", {}, `${cast.cast} from layer ${cast.layers[row]}, at ${position} (${textOf(sentence.tokens[position])})`), element("tbody", {}, ...lines)));
        if (keep || !across.firstChild || across.dataset.at !== `${state.sentence} ${position}`) sideBySide(sentence, position);
        if (keep) {
          [state.layer, state.position] = [row, position];
          remember(node, "lens.layer", row, "");
          remember(node, "lens.position", position, "");
        }
      }
    }

    /** Every cast at one position. */
    function sideBySide(sentence, position) {
      if (across.dataset.at === `${state.sentence} ${position}`) return;
      across.dataset.at = `${state.sentence} ${position}`;
      const width = sentence.tokens.length, casts = sentence.casts;
      const heads = casts.map((cast) => element("th", { scope: "col" }, cast.cast));
      const tile = (row, column) => {
        const cast = casts[column], cell = row * width + position, [token, share] = [cast.t[cell][0], cast.p[cell][0]];
        return tinted(element("td", {}, token === undefined ? "–" : textOf(token), " ", element("small", {}, percent(share))), share);
      };
      across.replaceChildren(element("h3", {}, `Every cast at ${position} (${textOf(sentence.tokens[position])})`),
        grid(heads, casts[0].layers, "Top tokens by layer and cast", tile, () => {}, { row: 0, column: 0 }));
    }
    redraw();
  }

  function browse() {
    const shownSamples = data.examples;
    if (!shownSamples || !shownSamples.list.length) return;
    const { list, casts, of } = shownSamples;
    const node = section("browse", "Single samples", `The predictions for one validation sample after another, the model's own token in bold with a ✓. Here are the first ${list.length} of ${of}; all are in \`predictions.parquet\`.`);
    explained(node, ["sample", "cast", "layer", "surprisal", "confidence", "rank"], casts.map((cast) => cast.cast));
    const last = casts[0].layers - 1;
    const own = (index) => casts[0].t[index * casts[0].layers + last][0];
    const state = { index: Number(recalled("browse.sample", "0", list.map((_, index) => String(index)))) };
    const controls = element("div", { class: "controls" }), text = element("p", { class: "sentence" }), facts = element("p", {});
    const place = element("div", { class: "grid" }), readout = element("div", { class: "readouts", "aria-live": "polite" });
    node.append(controls, text, facts, element("div", { class: "figure" }, place, readout));
    const around = (sample, index) => {
      const at = sample.position - sample.from;
      return `${index + 1}: ${written(sample.tokens).slice(Math.max(0, at - 3), at + 1).join("")}`;
    };
    const to = (index) => {
      state.index = (index + list.length) % list.length;
      remember(node, "browse.sample", state.index, "0");
      redraw();
    };
    const select = menu("Sample", list.map((sample, index) => [String(index), around(sample, index)]), String(state.index), (index) => to(Number(index)));
    controls.append(element("button", { type: "button", class: "step", onclick: () => to(state.index - 1) }, "Previous"), select, element("button", { type: "button", class: "step", onclick: () => to(state.index + 1) }, "Next"));

    function redraw() {
      const sample = list[state.index], at = sample.position - sample.from;
      select.querySelector("select").value = String(state.index);
      const marked = (word, place) => (place === at ? [word.startsWith(" ") && !textOf(sample.tokens[at]).startsWith("·") ? " " : "", element("mark", {}, textOf(sample.tokens[at]))] : [word]);
      text.replaceChildren(sample.from > 0 ? "… " : "", ...written(sample.tokens).flatMap(marked),
        sample.from + sample.tokens.length < sample.length ? " …" : "");
      const model = own(state.index);
      facts.replaceChildren("Predicted at the marked token. The model's own prediction: ", element("b", {}, model === undefined ? "–" : textOf(model)),
        sample.target === null ? "; the true token is not known" : "; the true token: ", sample.target === null ? "" : element("b", {}, textOf(sample.target)), ".");
      const cellOf = (row, column) => state.index * casts[column].layers + row;
      const tile = (row, column) => {
        const token = casts[column].t[cellOf(row, column)][0];
        const hit = token !== undefined && token === model;
        return element("td", { class: hit ? "hit" : null, "aria-label": hit ? `${textOf(token)}, the model's own` : null }, token === undefined ? "–" : textOf(token), hit ? " ✓" : "");
      };
      const read = (row, column) => {
        const cast = casts[column], cell = cellOf(row, column);
        mark(place, row, column);
        const lines = cast.t[cell].map((token, place) => element("tr", {}, element("th", { scope: "row" }, `${place + 1}. ${textOf(token)}`)));
        const figure = (name, value) => lines.push(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "value" }, value)));
        if (cast.s[cell] !== null) figure("surprisal", `${(cast.s[cell] / NATS).toFixed(2)} nats`);
        if (cast.c[cell] !== null) figure("confidence", (cast.c[cell] / SHARE).toFixed(3));
        figure("rank of the model's token", String(cast.r[cell]));
        readout.replaceChildren(element("table", { class: "readout" }, element("caption", {}, `${cast.cast} from layer ${row}`), element("tbody", {}, ...lines)));
      };
      const layerNumbers = Array.from({ length: casts[0].layers }, (_, layer) => layer);
      const start = { row: Math.ceil(last / 2), column: Math.max(0, casts.findIndex((cast) => cast.cast === bestOf(casts.map((cast) => cast.cast)))) };
      place.replaceChildren(grid(casts.map((cast) => element("th", { scope: "col" }, cast.cast)), layerNumbers, "Predictions for the sample by layer and cast", tile, read, start));
      read(start.row, start.column);
    }
    redraw();
  }

  function trust() {
    const curve = table("learning_curve.csv"), sources = table("sources.csv");
    if (!curve.length && !sources.length) return;
    const node = section("trust", "How far the maps can be trusted", "r² to the last layer of maps that were fitted on more and more of the training samples, and what the states of each layer are like as the source of a map.");
    explained(node, ["curve", "r2", "split", "effective", "condition", "coordinate", "first"]);
    const from = unique(curve.map((row) => row.from)).sort((a, b) => a - b);
    if (from.length) {
      const usual = from[Math.floor(from.length / 2)];
      const state = { layer: Number(recalled("trust.layer", String(usual), from.map(String))) };
      const controls = element("div", { class: "controls" });
      node.append(controls);
      const redraw = lineChart(node, "Learning curve", () => {
        const rows = curve.filter((row) => row.from === state.layer).sort((a, b) => a.samples - b.samples);
        const points = (key) => rows.map((row) => ({ x: row.samples, y: row[key] }));
        return { x: "training samples", y: "r²", logX: true, series: [{ ...line(rows[0].mapping, points("r2"), "validation"), dash: [] }, { ...line(rows[0].mapping, points("r2_train"), "training"), color: "grey", dash: [6, 5] }] };
      });
      controls.append(menu("Source layer", from.map((layer) => [String(layer), String(layer)]), String(state.layer), (layer) => { state.layer = Number(layer); remember(node, "trust.layer", layer, usual); redraw(); }));
    }
    const columns = Object.entries({
      layer: ["layer", 0], samples: ["training", 0], width: ["width", 0], rank: ["rank", 0], effective_rank: ["effective rank", 1],
      condition: ["condition", 1], top_coordinate_share: ["top coordinate", 3], first_position_share: ["position 0", 3],
    });
    if (sources.length) {
      const rows = [...sources].sort((a, b) => a.layer - b.layer);
      node.append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "States of each layer as sources of maps" }, element("table", { class: "results" },
        element("thead", {}, element("tr", {}, ...columns.map(([, [text]]) => element("th", { scope: "col", class: "plain" }, text)))),
        element("tbody", {}, ...rows.map((row) => element("tr", {}, ...columns.map(([key, [, digits]]) => element("td", {}, shown(row[key], digits)))))))));
    }
  }

  function origin() {
    const node = section("origin", "Where this is from", "The files that this page was made from, and what the run was made from.");
    const links = (paths) => element("ul", { class: "files" }, ...paths.map((path) => element("li", {}, element("a", { href: path }, path))));
    if (data.tables.length) node.append(element("p", {}, "Result tables, next to this page:"), links(data.tables));
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
    if (manifest.unread) parts.push(`not read, as allowed: ${manifest.unread.join(", ")}`);
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
    for (const line of data.notes || []) {
      main.append(element("p", { class: "told" }, element("b", {}, "Note: "), ...coded(line)));
    }
  }

  /** To a section, as the address has it from then on. */
  function goTo(id) {
    const found = sections.find((section) => section.id === id);
    if (!found) return;
    found.node.scrollIntoView();
    found.head.focus({ preventScroll: true });
  }

  function contents() {
    const link = ({ id, title }) => element("li", {}, element("a", { href: "#" + id, onclick: (event) => {
      event.preventDefault();
      address.section = id;
      writeAddress();
      goTo(id);
    } }, title));
    main.querySelector("section").before(element("nav", { id: "contents", "aria-label": "Contents" }, element("b", {}, "On this page"), element("ol", {}, ...sections.map(link))));
  }

  function build() {
    readAddress();
    main.replaceChildren();
    sections.length = charts.length = 0;
    warnings();
    for (const show of [lens, headline, byLayer, heatMap, earlyExit, agreement, rankOfToken, browse, trust, spectra, origin]) {
      // What cannot be shown, of a file that another version wrote say, leaves the rest alone.
      try { show(); } catch (error) {
        console.error(error);
        main.append(element("p", { class: "note" }, `A part of this page could not be shown: ${error.message}`));
      }
    }
    contents();
    goTo(address.section);
  }

  /** On paper everything is open, in light colours. */
  function printing() {
    let before = null;
    addEventListener("beforeprint", () => {
      const closed = [...document.querySelectorAll("details.words:not([open])")];
      before = { closed, theme: root.dataset.theme };
      closed.forEach((details) => { details.open = true; });
      root.dataset.theme = "light";
      charts.forEach((redraw) => redraw());
    });
    addEventListener("afterprint", () => {
      if (!before) return;
      before.closed.forEach((details) => { details.open = false; });
      root.dataset.theme = before.theme;
      before = null;
      charts.forEach((redraw) => redraw());
    });
  }

  theme();
  facts();
  build();
  printing();
  addEventListener("hashchange", build);
  // The figures' font may come after the first drawing.
  document.fonts.ready.then(() => charts.forEach((redraw) => redraw()));
})();
