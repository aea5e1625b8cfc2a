// The page of a frame: a picture in tiles, the sources over it, and what is known of each.
(() => {
  const frame = JSON.parse(document.getElementById("frame").textContent);
  const byId = (id) => document.getElementById(id);
  const SHOWN = 100; // lines of the list before "more"
  const NEAR = 14; // how many screen pixels off a press may be
  const KINDS = {
    star: { name: "Stars", colour: "#f0e150" },
    galaxy: { name: "Galaxies", colour: "#40e0d0" },
    unusable: { name: "Not usable", colour: "#ff7a6e" },
  };

  // ---- the catalogue -----------------------------------------------------------------------------
  const columns = new Map();
  for (const column of frame.columns) {
    let values = column.values;
    if ("same" in column) values = new Array(frame.rows).fill(column.same);
    else if (column.which) values = column.which.map((k) => column.distinct[k]);
    columns.set(column.name, { ...column, values });
  }
  const has = (name) => columns.has(name);
  const value = (name, i) => columns.get(name)?.values[i] ?? null;
  const finite = (x) => x !== null && Number.isFinite(x);
  const kindOf = (i) => {
    if (value("use", i) === false) return "unusable";
    if (has("type")) return value("type", i) === "star" ? "star" : "galaxy";
    return value("p_star", i) > 0.5 ? "star" : "galaxy";
  };
  const kinds = Array.from({ length: frame.rows }, (_, i) => kindOf(i));
  const indexOfId = new Map((columns.get("id")?.values || []).map((id, i) => [id, i]));
  const main = frame.bands[Math.floor((frame.bands.length - 1) / 2)] ?? "";
  const brightness = has(`mag_${main}`) ? `mag_${main}` : has(`flux_${main}`) ? `flux_${main}` : has("mag") ? "mag" : "flux";
  const sign = brightness.startsWith("flux") ? -1 : 1;
  const order = [...kinds.keys()].sort((a, b) => {
    const [x, y] = [value(brightness, a), value(brightness, b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (x - y) || a - b;
  });

  // ---- state -------------------------------------------------------------------------------------
  const state = { layer: "data", chosen: -1, find: "", sort: "bright", lines: SHOWN, drawn: new Set(Object.keys(KINDS)) };
  const view = { x: frame.width / 2, y: frame.height / 2, zoom: 1 }; // the middle, in picture pixels from the top
  const canvas = byId("picture");
  const pen = canvas.getContext("2d");
  let [wide, high, dense] = [1, 1, 1];

  const top = (y) => frame.height - 1 - y + 0.5; // a catalogue's y (first row 0, upwards)
  const left = (x) => x + 0.5;
  const toScreen = (px, py) => [(px - view.x) * view.zoom + wide / 2, (py - view.y) * view.zoom + high / 2];
  const toPicture = (sx, sy) => [(sx - wide / 2) / view.zoom + view.x, (sy - high / 2) / view.zoom + view.y];
  const least = () => Math.min(wide / frame.width, high / frame.height);

  function clamp() {
    view.zoom = Math.min(40, Math.max(0.7 * Math.min(least(), 1), view.zoom));
    view.x = Math.min(frame.width, Math.max(0, view.x));
    view.y = Math.min(frame.height, Math.max(0, view.y));
  }

  function wholeFrame() {
    Object.assign(view, { x: frame.width / 2, y: frame.height / 2, zoom: least() });
    draw();
  }

  function zoomAt(sx, sy, factor) {
    const [px, py] = toPicture(sx, sy);
    view.zoom *= factor;
    clamp();
    view.x = px - (sx - wide / 2) / view.zoom;
    view.y = py - (sy - high / 2) / view.zoom;
    draw();
  }

  // ---- tiles -------------------------------------------------------------------------------------
  const images = new Map();

  function tile(layer, level, row, column) {
    const key = `${layer}/${level}/${row}/${column}`;
    let image = images.get(key);
    if (!image) {
      image = new Image();
      image.addEventListener("load", () => {
        draw();
        drawCuts();
      });
      image.addEventListener("error", () => {
        byId("about").textContent = "The pictures are not beside this page.";
      });
      image.src = frame.tiles[layer][level][row][column];
      images.set(key, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  }

  // Draw a layer into a box of w x h screen pixels that shows the picture from (x0, y0) on.
  function drawLayer(to, layer, x0, y0, zoom, w, h) {
    const levels = frame.tiles[layer];
    const wanted = Math.min(levels.length - 1, Math.max(0, Math.floor(Math.log2(1 / zoom) + 0.01)));
    to.imageSmoothingEnabled = zoom < 2;
    to.imageSmoothingQuality = "high";
    for (let level = levels.length - 1; level >= wanted; level--) {
      if (level > wanted && level < levels.length - 1) continue; // the coarsest is a stand-in
      const step = frame.tile * 2 ** level;
      levels[level].forEach((tiles, row) => tiles.forEach((_, column) => {
        const [px, py] = [column * step, row * step];
        const [sx, sy] = [(px - x0) * zoom, (py - y0) * zoom];
        if (sx > w || sy > h || sx + step * zoom < 0 || sy + step * zoom < 0) return;
        const image = tile(layer, level, row, column);
        if (image) to.drawImage(image, sx, sy, image.naturalWidth * 2 ** level * zoom, image.naturalHeight * 2 ** level * zoom);
      }));
    }
  }

  // ---- drawing -----------------------------------------------------------------------------------
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      paint();
    });
  }

  function paint() {
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const [x0, y0] = toPicture(0, 0);
    drawLayer(pen, state.layer, x0, y0, view.zoom * dense, canvas.width, canvas.height);
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    for (const i of kinds.keys()) {
      if (i !== state.chosen && state.drawn.has(kinds[i])) outline(i, false);
    }
    if (state.chosen >= 0) outline(state.chosen, true);
    scaleBar();
  }

  // Half-light ellipse of a galaxy, cross of a star.
  function outline(i, chosen) {
    const [sx, sy] = toScreen(left(value("x", i)), top(value("y", i)));
    if (!(sx > -200 && sx < wide + 200 && sy > -200 && sy < high + 200)) return;
    const shape = value("re", i);
    const small = chosen ? 1 : Math.min(1, Math.max(0.45, 0.5 * view.zoom)); // marks hide little of a whole frame
    const galaxy = finite(shape) && (has("type") ? value("type", i) !== "star" : true);
    pen.beginPath();
    if (galaxy) {
      const a = Math.max(shape * view.zoom, chosen ? 7 : 5 * small);
      const b = Math.max(shape * (value("q", i) ?? 1) * view.zoom, chosen ? 5 : 4 * small);
      // pa: counter-clockwise from up; the canvas turns clockwise from the right
      pen.ellipse(sx, sy, a, Math.min(a, b), -(((value("pa", i) ?? 0) + 90) * Math.PI) / 180, 0, 2 * Math.PI);
    } else {
      const [inner, outer] = chosen ? [4, 11] : [3 * small, 8 * small];
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(sx + dx * inner, sy + dy * inner);
        pen.lineTo(sx + dx * outer, sy + dy * outer);
      }
    }
    pen.lineWidth = chosen ? 5 : 3.5 * small;
    pen.strokeStyle = state.layer === "residual" ? "rgb(0 0 0 / 85%)" : "rgb(0 0 0 / 55%)";
    pen.stroke();
    pen.lineWidth = chosen ? 2.5 : 0.6 + 0.8 * small;
    pen.strokeStyle = KINDS[kinds[i]].colour;
    pen.stroke();
    if (chosen) {
      pen.beginPath();
      pen.arc(sx, sy, Math.max(18, (finite(shape) ? shape * view.zoom : 0) + 10), 0, 2 * Math.PI);
      for (const [colour, thick] of [["#000", 4], ["#fff", 1.8]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = thick;
        pen.stroke();
      }
    }
  }

  function scaleBar() {
    const unit = frame.scale || 1;
    const room = Math.min(160, wide / 3);
    const limit = (room / view.zoom) * unit;
    const [step, name] = !frame.scale ? [1, " px"] : limit >= 60 ? [60, "′"] : [1, "″"];
    const power = 10 ** Math.floor(Math.log10(limit / step));
    const length = [5, 2, 1].map((k) => k * power).find((k) => k <= limit / step);
    const w = ((length * step) / unit) * view.zoom;
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    const text = `${short(length, 3)}${name}`;
    for (const [colour, thick] of [["rgb(0 0 0 / 70%)", 4], ["#fff", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.beginPath();
      pen.moveTo(12, high - 12);
      pen.lineTo(12 + w, high - 12);
      pen.stroke();
    }
    pen.lineWidth = 3;
    pen.strokeStyle = "rgb(0 0 0 / 70%)";
    pen.strokeText(text, 12 + w / 2, high - 19);
    pen.fillStyle = "#fff";
    pen.fillText(text, 12 + w / 2, high - 19);
  }

  // ---- pointers ----------------------------------------------------------------------------------
  const fingers = new Map();
  let moved = 0;

  const onCanvas = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function nearest(sx, sy) {
    let [best, closest] = [-1, Infinity];
    for (const i of kinds.keys()) {
      if (!state.drawn.has(kinds[i]) && i !== state.chosen) continue;
      const [x, y] = toScreen(left(value("x", i)), top(value("y", i)));
      const reach = Math.max(NEAR, finite(value("re", i)) ? value("re", i) * view.zoom : 0);
      const far = Math.hypot(x - sx, y - sy);
      if (far < reach && far < closest) [best, closest] = [i, far];
    }
    return best;
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, onCanvas(event));
    if (fingers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = onCanvas(event);
    tell(...at);
    const before = fingers.get(event.pointerId);
    if (!before) {
      canvas.style.cursor = nearest(...at) >= 0 ? "pointer" : "";
      return;
    }
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, at);
    moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
    if (other) {
      const [a, b] = [Math.hypot(before[0] - other[0], before[1] - other[1]), Math.hypot(at[0] - other[0], at[1] - other[1])];
      view.x -= (at[0] - before[0]) / 2 / view.zoom;
      view.y -= (at[1] - before[1]) / 2 / view.zoom;
      if (a > 0) zoomAt((at[0] + other[0]) / 2, (at[1] + other[1]) / 2, b / a);
    } else {
      view.x -= (at[0] - before[0]) / view.zoom;
      view.y -= (at[1] - before[1]) / view.zoom;
      clamp();
      draw();
    }
  });
  const lifted = (event) => {
    if (fingers.delete(event.pointerId) && event.type === "pointerup" && fingers.size === 0 && moved < 6) {
      const i = nearest(...onCanvas(event));
      if (i >= 0) choose(i, false);
    }
  };
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const size = event.deltaMode === 1 ? 16 : 1;
    zoomAt(...onCanvas(event), Math.exp(-Math.max(-120, Math.min(120, event.deltaY * size)) / 350));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomAt(...onCanvas(event), 2));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / view.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      view.x += moves[event.key][0];
      view.y += moves[event.key][1];
      clamp();
      draw();
    } else if (event.key === "+" || event.key === "=") zoomAt(wide / 2, high / 2, 1.5);
    else if (event.key === "-") zoomAt(wide / 2, high / 2, 1 / 1.5);
    else if (event.key === "0") wholeFrame();
    else return;
    event.preventDefault();
  });

  function tell(sx, sy) {
    const [px, py] = toPicture(sx, sy);
    const inside = px >= 0 && py >= 0 && px < frame.width && py < frame.height;
    byId("place").textContent = inside ? `x ${(px - 0.5).toFixed(1)}  y ${(frame.height - 0.5 - py).toFixed(1)}` : "";
  }

  // ---- the list ----------------------------------------------------------------------------------
  const unitOf = (name) => columns.get(name)?.unit || "";
  const measured = (name, i) => {
    const [text, error] = rounded(value(name, i), value(`${name}_err`, i));
    return (error ? `${text} ± ${error}` : text).replace(/ /g, "\u00a0").replace(/(^|\s)-/g, "$1−");
  };
  const percent = (p) => (p > 0.995 ? "over 99 %" : p < 0.005 ? "under 1 %" : `${Math.round(100 * p)} %`).replace(/ %/, "\u00a0%");
  const dot = (i) => make("i", { style: `border-color: ${KINDS[kinds[i]].colour}`, "aria-hidden": "true" });

  function listed() {
    const find = state.find.trim().toLowerCase();
    const some = order.filter((i) => state.drawn.has(kinds[i]) && (!find || String(value("id", i)).toLowerCase().includes(find)));
    if (state.sort === "faint") some.reverse();
    if (state.sort === "doubtful") {
      const doubt = (i) => Math.abs((value("p_star", i) ?? 1) - 0.5);
      some.sort((a, b) => doubt(a) - doubt(b));
    }
    if (state.sort === "bad") some.sort((a, b) => (value("chi2_red", b) ?? 0) - (value("chi2_red", a) ?? 0));
    return some;
  }

  function drawList() {
    const find = make("input", { type: "search", value: state.find, autocomplete: "off", spellcheck: "false", "aria-label": "Id contains", placeholder: "id contains…" });
    find.addEventListener("input", () => {
      state.find = find.value;
      state.lines = SHOWN;
      lines();
    });
    const sort = make("select", { "aria-label": "Order" }, ...[
      ["bright", "brightest first"], ["faint", "faintest first"],
      ...(has("p_star") ? [["doubtful", "type least sure"]] : []),
      ...(has("chi2_red") ? [["bad", "worst fit first"]] : []),
    ].map(([key, text]) => make("option", { value: key, selected: key === state.sort }, text)));
    sort.addEventListener("change", () => {
      state.sort = sort.value;
      lines();
    });
    const brief = brightness.startsWith("mag") ? `${main} magnitude` : `flux ${main}`;
    const count = make("span", { class: "tool", role: "status" });
    const list = make("ul", { class: "list" });
    const more = make("button", { type: "button", class: "more", on: { click: () => {
      state.lines += 5 * SHOWN;
      lines();
    } } }, "More");
    function lines() {
      const some = listed();
      count.textContent = `${whole(some.length)} sources, with ${brief}`;
      list.replaceChildren(...some.slice(0, state.lines).map((i) => make("li", {}, make(
        "button", { type: "button", on: { click: () => choose(i, true) } },
        dot(i), make("span", { class: "name" }, String(value("id", i))),
        make("span", { class: "error" }, measured(brightness, i))))));
      more.hidden = some.length <= state.lines;
    }
    lines();
    byId("panel").replaceChildren(
      make("div", { class: "list-head" }, make("div", { class: "pair" }, find, sort), count),
      list, more);
  }

  // ---- one source --------------------------------------------------------------------------------
  function words(i) {
    const parts = [];
    const p = value("p_star", i);
    const star = value("type", i) === "star" || (p !== null && p > 0.5);
    parts.push(p === null ? "" : `A ${star ? "star" : "galaxy"} (probability ${percent(star ? p : 1 - p)}).`);
    const m = value(brightness, i);
    if (m !== null) parts.push(`${brightness.startsWith("mag") ? `${main || "Magnitude"} = ` : "Flux "}${measured(brightness, i)}${brightness.startsWith("mag") ? " mag" : ""}.`);
    const colours = [...columns.keys()].map((name) => [name, /^colour_(\w+?)_(\w+)$/.exec(name)])
      .filter(([name, found]) => found && has(`${name}_err`) && finite(value(name, i)))
      .map(([name, [, blue, red]]) => `${blue}\u00a0−\u00a0${red}\u00a0=\u00a0${measured(name, i)}`);
    if (colours.length) parts.push(`Colours: ${colours.join(", ")}.`);
    if (finite(value("re", i))) {
      const size = finite(value("re_arcsec", i)) ? `${measured("re_arcsec", i)}″` : `${measured("re", i)} pixels`;
      parts.push(`${star ? "As a galaxy: half-light" : "Half-light"} radius ${size}, axis ratio ${measured("q", i)}, position angle ${measured("pa", i)}°.`);
      const dev = value("dev", i);
      if (finite(dev)) parts.push(`Share of de Vaucouleurs light ${measured("dev", i)}.`);
      else if (finite(value("n", i))) parts.push(`Sérsic index ${measured("n", i)}.`);
    }
    if (value("use", i) === false) parts.push("Not usable: see the flags.");
    return parts.filter(Boolean).join(" ");
  }

  let cuts = [];
  function drawCuts() {
    const i = state.chosen;
    if (i < 0) return;
    const radius = value("radius", i);
    const half = Math.min(60, Math.max(12, 5 * (value("re", i) ?? 0), 1.3 * (radius ?? 0)));
    for (const [layer, cut] of cuts) {
      const side = (cut.width = cut.height = Math.round(120 * Math.max(2, dense)));
      const to = cut.getContext("2d");
      const zoom = side / (2 * half);
      drawLayer(to, layer, left(value("x", i)) - half, top(value("y", i)) - half, zoom, side, side);
    }
  }

  function drawSource() {
    const i = state.chosen;
    const at = order.indexOf(i);
    const go = (k, text, name) => make("button", {
      type: "button", "aria-label": name, title: name, disabled: at + k < 0 || at + k >= order.length,
      on: { click: () => choose(order[at + k], true) },
    }, text);
    const bar = make("div", { class: "bar" }, dot(i), make("h2", {}, String(value("id", i))),
      go(-1, "←", "The next brighter one"), go(1, "→", "The next fainter one"),
      make("button", { type: "button", "aria-label": "Back to the list", title: "Back to the list (Esc)", on: { click: close } }, "✕"));
    const canvases = ["data", "model", "residual"].map((layer) => [layer, make("canvas", { role: "img", "aria-label": `${layer} around the source` })]);
    cuts = canvases;
    const parts = [
      make("div", { class: "cuts" }, ...canvases.map(([layer, c]) => make("figure", {}, c, make("figcaption", {}, layer)))),
      make("p", { class: "words" }, words(i)),
    ];
    const bits = value("flags", i) ?? 0;
    const set = frame.flags.filter((flag) => bits & flag.bit);
    if (set.length) {
      parts.push(make("ul", { class: "flag-list" }, ...set.map((flag) => make("li", {},
        make("span", { class: flag.fatal ? "chip fatal" : "chip" }, flag.name), ` ${flag.meaning}`))));
    }
    const bands = frame.bands.filter((band) => has(`flux_${band}`));
    if (bands.length) {
      parts.push(make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ...["band", `flux${unitOf(`flux_${bands[0]}`) ? ` [${unitOf(`flux_${bands[0]}`)}]` : ""}`, "mag"].map((text, k) =>
          make("th", { scope: "col", class: k ? "right" : null }, make("span", { class: "plain" }, text))))),
        make("tbody", {}, ...bands.map((band) => make("tr", {}, make("th", { scope: "row" }, band),
          make("td", { class: "right" }, measured(`flux_${band}`, i)), make("td", { class: "right" }, measured(`mag_${band}`, i))))))));
    }
    const told = new Set(["id", "flags", ...bands.flatMap((b) => [`flux_${b}`, `mag_${b}`])]);
    const facts = [...columns.values()].filter(({ name }) => {
      if (told.has(name) || (name.endsWith("_err") && has(name.slice(0, -4)))) return false;
      const x = value(name, i);
      return x !== null && x !== "";
    });
    parts.push(make("details", { open: state.all, on: { toggle: (event) => (state.all = event.target.open) } }, make("summary", {}, "All columns"),
      make("dl", { class: "facts" }, ...facts.map(({ name, kind, unit, about }) => {
        const x = value(name, i);
        const place = name === "ra" || name === "dec";
        const text = kind === "truth" ? (x ? "yes" : "no") : kind === "text" ? x : place ? short(x, 9) : measured(name, i);
        return make("div", { title: about }, make("dt", {}, name), make("dd", {}, unit ? `${text} ${unit}` : text));
      }))));
    byId("panel").replaceChildren(bar, make("div", { class: "inside" }, ...parts));
    byId("panel").scrollTop = 0;
    drawCuts();
  }

  function choose(i, jump) {
    state.chosen = i;
    if (jump) {
      Object.assign(view, { x: left(value("x", i)), y: top(value("y", i)), zoom: Math.max(view.zoom, 4) });
      clamp();
    }
    history.replaceState(null, "", `#id=${encodeURIComponent(value("id", i))}`);
    draw();
    drawSource();
    if (!jump && matchMedia("(max-width: 860px)").matches) byId("panel").scrollIntoView({ behavior: "smooth", block: "nearest" });
  }

  function close() {
    state.chosen = -1;
    history.replaceState(null, "", location.pathname + location.search);
    draw();
    drawList();
  }

  // ---- the page ----------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.chosen >= 0) close();
  });
  for (const button of byId("layers").children) {
    button.addEventListener("click", () => layer(button.dataset.layer));
  }
  function layer(name) {
    state.layer = name;
    for (const button of byId("layers").children) button.setAttribute("aria-pressed", button.dataset.layer === name);
    draw();
  }
  byId("in").addEventListener("click", () => zoomAt(wide / 2, high / 2, 1.5));
  byId("out").addEventListener("click", () => zoomAt(wide / 2, high / 2, 1 / 1.5));
  byId("fit").addEventListener("click", wholeFrame);
  for (const [key, { name, colour }] of Object.entries(KINDS)) {
    const count = kinds.filter((kind) => kind === key).length;
    if (!count) continue;
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) state.drawn.add(key);
      else state.drawn.delete(key);
      draw();
      if (state.chosen < 0) drawList();
    });
    byId("kinds").append(make("label", {}, box, make("i", { style: `border-color: ${colour}`, "aria-hidden": "true" }), name, make("span", { class: "number" }, whole(count))));
  }
  const made = frame.colours.length === 3 ? `red, green, blue: ${frame.colours.join(", ")}` : frame.colours[0];
  byId("about").textContent = `${frame.width} × ${frame.height} pixels · ${whole(frame.rows)} sources${made ? ` · ${made}` : ""}`;
  canvas.setAttribute("aria-label", `The frame with ${frame.rows} sources; arrows move, + and − zoom, 0 shows all`);

  canvas.parentElement.style.setProperty("--ratio", frame.height / frame.width);

  let first = true;
  new ResizeObserver(() => {
    dense = window.devicePixelRatio || 1;
    [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(wide * dense);
    canvas.height = Math.round(high * dense);
    if (first) {
      first = false;
      wholeFrame();
      const wanted = indexOfId.get(decodeURIComponent(/^#id=(.*)$/.exec(location.hash)?.[1] ?? ""));
      if (wanted !== undefined) choose(wanted, true);
    } else {
      clamp();
      draw();
    }
  }).observe(canvas);
  layer("data");
  drawList();
})();
