"use strict";
// The report: reads the embedded catalogue, keeps the state in the URL's hash, draws the page.
(() => {
  const source = JSON.parse(document.getElementById("catalogue").textContent);
  const thumbnails = JSON.parse(document.getElementById("thumbnails").textContent);
  const size = source.rows;
  const byId = (id) => document.getElementById(id);

  const CARDS = 60;
  const LINES = 100;
  const RANGES = ["mag_total", "re_total", "fraction", "mag", "re", "n", "q", "snr", "chi2_red"];
  const TABLE = ["id", "status", "flags", "message", "mag_total", "re_total", "q_total", "fraction", "mag", "re_arcsec", "re", "n", "q", "pa", "snr", "chi2_red"];
  const LOG = new Set(["flux", "flux_total", "re", "re_total", "re_arcsec", "re_circ", "snr", "chi2_red"]);
  const VIEWS = ["gallery", "table", "plots"];

  // ---- the catalogue -----------------------------------------------------------------------
  const columns = new Map();
  for (const column of source.columns) {
    let values = column.values;
    if ("same" in column) values = new Array(size).fill(column.same);
    else if (column.which) values = column.which.map((k) => column.distinct[k]);
    columns.set(column.name, { ...column, values });
  }
  const has = (name) => columns.has(name);
  // Of a large catalogue, some columns come in parts from beside the page: loaded.get(k)[name].
  const loaded = new Map();
  window.autofitRows = (k, rows) => loaded.set(k, rows);
  const here = (name) => columns.get(name)?.values !== undefined;
  const value = (name, i) => {
    if (here(name)) return columns.get(name).values[i];
    return loaded.get(Math.floor(i / source.part))?.[name]?.[i % source.part] ?? null;
  };
  const held = [...columns.values()].filter((c) => here(c.name));
  const numeric = held.filter((c) => c.kind === "number" && c.name !== "flags");
  const flags = source.flags;
  const quality = flags.reduce((bits, flag) => bits | (flag.quality ? flag.bit : 0), 0);
  const ANY = { bit: quality, name: "ANY", fatal: false, meaning: "any flag of quality" };
  const flagsOf = (i) => flags.filter((flag) => value("flags", i) & flag.bit);
  const carries = (bits, flag) => (bits & flag.bit) !== 0;
  const indexOfId = new Map(columns.get("id").values.map((id, i) => [id, i]));
  const hasFile = (which, i) => source[which][i] === "1";

  // ---- state <-> hash ------------------------------------------------------------------------
  const blank = () => ({
    view: "gallery", sort: "", down: false, find: "", status: "", use: "",
    flags: new Map(), ranges: new Map(), page: 1, id: "", cols: null,
  });
  let state = blank();

  function parseHash(hash) {
    const parsed = blank();
    for (const part of hash.replace(/^#/, "").split("&")) {
      const cut = part.indexOf("=");
      if (cut < 0) continue;
      const key = part.slice(0, cut);
      let text;
      try {
        text = decodeURIComponent(part.slice(cut + 1));
      } catch {
        continue; // not a hash of ours
      }
      const range = /^(.+)_(min|max)$/.exec(key);
      if (key === "view" && VIEWS.includes(text)) parsed.view = text;
      else if (key === "sort") {
        const name = text.replace(/^-/, "");
        if (here(name)) [parsed.sort, parsed.down] = [name, text.startsWith("-")];
      } else if (key === "find") parsed.find = text;
      else if (key === "status" && ["ok", "failed"].includes(text)) parsed.status = text;
      else if (key === "use" && ["yes", "no"].includes(text)) parsed.use = text;
      else if (key === "flag") {
        for (const word of text.split(",")) {
          const flag = [ANY, ...flags].find((f) => f.name === word.replace(/^[+-]/, "").toUpperCase());
          if (flag) parsed.flags.set(flag.name, word.startsWith("-") ? -1 : 1);
        }
      } else if (key === "page") parsed.page = Math.max(1, parseInt(text, 10) || 1);
      else if (key === "id") parsed.id = text;
      else if (key === "cols") parsed.cols = text.split(",").filter(here);
      else if (range && here(range[1]) && text !== "" && Number.isFinite(Number(text))) {
        const limits = parsed.ranges.get(range[1]) || [null, null];
        limits[range[2] === "min" ? 0 : 1] = Number(text);
        parsed.ranges.set(range[1], limits);
      }
    }
    return parsed;
  }

  function formatHash(s) {
    const parts = [];
    const put = (key, text) => parts.push(`${key}=${encodeURIComponent(text).replace(/%2C/g, ",").replace(/%2B/g, "+")}`);
    if (s.view !== "gallery") put("view", s.view);
    if (s.sort) put("sort", (s.down ? "-" : "") + s.sort);
    if (s.find) put("find", s.find);
    if (s.status) put("status", s.status);
    if (s.use) put("use", s.use);
    if (s.flags.size) put("flag", [...s.flags].map(([n, k]) => (k > 0 ? "+" : "-") + n).join(","));
    for (const [name, [low, high]] of s.ranges) {
      if (low !== null) put(`${name}_min`, String(low));
      if (high !== null) put(`${name}_max`, String(high));
    }
    if (s.page > 1) put("page", String(s.page));
    if (s.cols) put("cols", s.cols.join(","));
    if (s.id) put("id", s.id);
    return `#${parts.join("&")}`;
  }

  // `remember` makes a step that the browser's Back button undoes.
  function change(changes, remember = false) {
    const filtering = Object.keys(changes).some((key) => !["view", "id", "cols", "page"].includes(key));
    state = { ...state, ...changes };
    if ((filtering || "view" in changes) && !("page" in changes)) state.page = 1;
    const hash = formatHash(state);
    if (remember) history.pushState(null, "", hash);
    else history.replaceState(null, "", hash);
    draw();
  }

  // ---- selection -----------------------------------------------------------------------------
  let chosen = [];

  function select() {
    const find = state.find.toLowerCase();
    const ids = columns.get("id").values;
    const wanted = [...state.flags].map(([name, k]) => [[ANY, ...flags].find((f) => f.name === name), k]);
    const ranges = [...state.ranges].map(([name, limits]) => [columns.get(name).values, ...limits]);
    chosen = [];
    for (let i = 0; i < size; i++) {
      if (find && !ids[i].toLowerCase().includes(find)) continue;
      if (state.status && value("status", i) !== state.status) continue;
      if (state.use && Boolean(value("use", i)) !== (state.use === "yes")) continue;
      const bits = value("flags", i);
      if (wanted.some(([flag, k]) => carries(bits, flag) !== k > 0)) continue;
      const outside = ([values, low, high]) =>
        values[i] === null || (low !== null && values[i] < low) || (high !== null && values[i] > high);
      if (ranges.some(outside)) continue;
      chosen.push(i);
    }
    if (state.sort) {
      const { values, kind } = columns.get(state.sort);
      const sign = state.down ? -1 : 1;
      const text = new Intl.Collator(undefined, { numeric: true });
      const compare = kind === "text" ? text.compare : (a, b) => a - b;
      chosen.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b; // unknown last
        return sign * compare(x, y) || a - b;
      });
    } else if (state.down) chosen.reverse();
  }

  // ---- small helpers -------------------------------------------------------------------------
  function measured(name, i, decimals = 6) {
    const [text, error] = rounded(value(name, i), value(`${name}_err`, i), decimals);
    return error ? `${text} ± ${error}` : text;
  }

  const chip = (flag) => make("span", { class: flag.fatal ? "chip fatal" : "chip", title: flag.meaning }, flag.name);
  const chips = (i) => make("span", { class: "chips" }, ...flagsOf(i).map(chip));
  const unitOf = (name) => columns.get(name)?.unit || "";
  const stem = (i) => source.stems[i] ?? value("id", i);
  const previewAddress = (i) => `previews/${encodeURIComponent(stem(i))}.png`;

  function picture(i) {
    const alt = `Data, model and residual of ${value("id", i)}`;
    if (thumbnails[i]) return make("img", { src: `data:image/jpeg;base64,${thumbnails[i]}`, alt, width: 244, height: 80 });
    if (source.thumbnails[i] === "1") {
      return make("img", { src: `.work/thumbs/${encodeURIComponent(stem(i))}.jpg`, alt, loading: "lazy", width: 244, height: 80 });
    }
    if (!hasFile("previews", i)) return null;
    return make("img", { src: previewAddress(i), alt, loading: "lazy", width: 244, height: 80 });
  }

  const detailLink = (i) => ({
    href: formatHash({ ...state, id: value("id", i) }),
    on: {
      click: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        change({ id: value("id", i) }, true);
      },
    },
  });

  // ---- filters -------------------------------------------------------------------------------
  function buildFilters() {
    byId("find").addEventListener("input", (e) => change({ find: e.target.value }));
    byId("status").addEventListener("change", (e) => change({ status: e.target.value }));
    byId("use").addEventListener("change", (e) => change({ use: e.target.value }));
    byId("reset").addEventListener("click", () => {
      change({ find: "", status: "", use: "", flags: new Map(), ranges: new Map() });
      drawRanges();
    });
    for (const flag of [ANY, ...flags]) {
      const button = make(
        "button",
        { type: "button", title: flag.meaning, "data-flag": flag.name, on: { click: () => cycle(flag) } },
        make("span", { class: "mark", "aria-hidden": "true" }),
        make("span", {}, flag === ANY ? "any flag" : flag.name),
        make("span", { class: "number" }),
      );
      byId("flags").append(make("li", {}, button));
    }
    const add = byId("add-range");
    add.append(make("option", { value: "" }, "more parameters…"));
    for (const { name } of numeric) add.append(make("option", { value: name }, name));
    add.addEventListener("change", () => {
      if (!add.value) return;
      extraRanges.add(add.value);
      const name = add.value;
      add.value = "";
      drawRanges();
      byId("ranges").querySelector(`[data-name="${CSS.escape(name)}"] input`)?.focus();
    });
    if (matchMedia("(max-width: 860px)").matches) byId("filters").open = false;
  }

  function cycle(flag) {
    const next = new Map(state.flags);
    const now = next.get(flag.name) || 0;
    if (now === 0) next.set(flag.name, 1);
    else if (now === 1) next.set(flag.name, -1);
    else next.delete(flag.name);
    change({ flags: next });
  }

  const extraRanges = new Set();

  function drawRanges() {
    const box = byId("ranges");
    const names = [...new Set([...RANGES.filter(has), ...extraRanges, ...state.ranges.keys()])];
    box.replaceChildren(
      ...names.map((name) => {
        const { unit, about } = columns.get(name);
        const [least, most] = extent(name);
        const field = (side, label, bound) =>
          make("input", {
            type: "text", inputmode: "decimal", "data-side": side, placeholder: short(bound, 3),
            "aria-label": `${label} ${name}`, autocomplete: "off",
            on: { input: (e) => setLimit(name, side, e.target) },
          });
        return make(
          "div", { class: "range", "data-name": name },
          make("span", { title: about + (unit ? ` [${unit}]` : "") }, name),
          field(0, "smallest", least), field(1, "largest", most),
        );
      }),
    );
    syncRanges();
  }

  function setLimit(name, side, input) {
    const text = input.value.trim().replace(",", ".");
    const number = text === "" ? null : Number(text);
    input.classList.toggle("wrong", number !== null && !Number.isFinite(number));
    if (number !== null && !Number.isFinite(number)) return;
    const ranges = new Map(state.ranges);
    const limits = [...(ranges.get(name) || [null, null])];
    limits[side] = number;
    if (limits[0] === null && limits[1] === null) ranges.delete(name);
    else ranges.set(name, limits);
    change({ ranges });
  }

  function syncRanges() {
    for (const line of byId("ranges").children) {
      const limits = state.ranges.get(line.dataset.name) || [null, null];
      for (const input of line.querySelectorAll("input")) {
        const limit = limits[input.dataset.side];
        if (input !== document.activeElement) {
          input.value = limit === null ? "" : short(limit, 6);
          input.classList.remove("wrong");
        }
        input.classList.toggle("set", limit !== null);
      }
    }
  }

  function drawFilters() {
    if (byId("find") !== document.activeElement) byId("find").value = state.find;
    byId("status").value = state.status;
    byId("use").value = state.use;
    const counts = new Map();
    for (const flag of [ANY, ...flags]) counts.set(flag.name, 0);
    for (const i of chosen) {
      const bits = value("flags", i);
      for (const flag of [ANY, ...flags]) if (carries(bits, flag)) counts.set(flag.name, counts.get(flag.name) + 1);
    }
    const words = { 1: "must have", 0: "any", "-1": "must not have" };
    for (const button of byId("flags").querySelectorAll("button")) {
      const name = button.dataset.flag;
      const now = state.flags.get(name) || 0;
      button.dataset.state = now;
      button.classList.toggle("none", counts.get(name) === 0 && now === 0);
      button.children[0].textContent = { 1: "+", 0: "", "-1": "−" }[now];
      button.children[2].textContent = counts.get(name) || "";
      button.setAttribute("aria-label", `${name}: ${words[now]}, ${counts.get(name)} shown`);
    }
    const shown = new Set([...byId("ranges").children].map((line) => line.dataset.name));
    if ([...state.ranges.keys()].some((name) => !shown.has(name))) drawRanges();
    else syncRanges();
  }

  // ---- summary and toolbar ---------------------------------------------------------------------
  function buildSummary() {
    const count = (test) => {
      let found = 0;
      for (let i = 0; i < size; i++) found += test(i) ? 1 : 0;
      return found;
    };
    const ok = (i) => value("status", i) === "ok";
    const none = { status: "", use: "", flags: new Map() };
    const entries = [
      ["objects", size, "everything", none],
      ["fitted", count(ok), "status ok", { ...none, status: "ok" }],
      ["usable", count((i) => value("use", i)), "no fatal flag", { ...none, use: "yes" }],
      ["flagged", count((i) => ok(i) && carries(value("flags", i), ANY)), "fitted, with at least one flag of quality",
        { ...none, status: "ok", flags: new Map([["ANY", 1]]) }],
      ["failed", count((i) => !ok(i)), "no fit", { ...none, status: "failed" }],
    ];
    for (const [name, number, about, filter] of entries) {
      const button = make(
        "button", { type: "button", class: name, title: about, on: { click: () => change(filter) } },
        make("b", {}, whole(number)), name,
      );
      button.filter = filter;
      byId("summary").append(button);
    }
  }

  function drawSummary() {
    const same = (f) =>
      f.status === state.status && f.use === state.use && f.flags.size === state.flags.size &&
      [...f.flags].every(([name, k]) => state.flags.get(name) === k);
    for (const button of byId("summary").children) button.setAttribute("aria-pressed", same(button.filter));
  }

  function buildToolbar() {
    for (const button of byId("views").children) {
      button.addEventListener("click", () => change({ view: button.dataset.view }, true));
    }
    const sort = byId("sort");
    sort.append(make("option", { value: "" }, "catalogue order"));
    for (const { name } of held) sort.append(make("option", { value: name }, name));
    sort.addEventListener("change", () => change({ sort: sort.value }));
    byId("direction").addEventListener("click", () => change({ down: !state.down }));
    byId("export").addEventListener("click", exportIds);
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault(); // the hash is the state
      byId("main").focus();
    });
  }

  function drawToolbar() {
    for (const button of byId("views").children) {
      button.setAttribute("aria-pressed", button.dataset.view === state.view);
    }
    byId("sort").value = state.sort;
    byId("direction").textContent = state.down ? "↓" : "↑";
    byId("direction").setAttribute("aria-label", state.down ? "descending" : "ascending");
    const usable = chosen.reduce((sum, i) => sum + (value("use", i) ? 1 : 0), 0);
    byId("count").replaceChildren(
      make("b", {}, whole(chosen.length)), ` of ${whole(size)} shown, ${whole(usable)} usable`,
    );
    byId("count").dataset.shown = chosen.length;
    byId("export").disabled = chosen.length === 0;
  }

  function exportIds() {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = ["id", ...chosen.map((i) => quoted(value("id", i)))];
    const address = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    make("a", { href: address, download: "selected_ids.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // ---- gallery -----------------------------------------------------------------------------------
  function card(i) {
    const id = value("id", i);
    const failed = value("status", i) === "failed";
    // Of several components: the whole, the first one's share, and what the first is like.
    const [mag, flux] = has("fraction") ? ["mag_total", "flux_total"] : ["mag", "flux"];
    const brightness = value(mag, i) === null ? flux : mag;
    const size = value("re_arcsec", i) === null ? "re" : "re_arcsec";
    const shown = has("fraction") ? [brightness, "re_total", "q_total", "fraction"] : [brightness, size, "n", "q"];
    const numbers = shown.filter((name) => has(name) && value(name, i) !== null).map((name) =>
      make("span", { title: `${name} ${measured(name, i)} ${unitOf(name)}` }, make("i", {}, `${name.replace("_arcsec", "")} `), measured(name, i, 3) + (name === "re_arcsec" ? "″" : "")));
    return make(
      "a", { class: "card", ...detailLink(i) },
      make("span", { class: "picture" }, picture(i) || "no picture"),
      make(
        "span", { class: "body" },
        make("span", { class: "name", title: id }, id),
        failed
          ? make("span", { class: "message", title: value("message", i) }, value("message", i) || "no reason recorded")
          : make("span", { class: "numbers" }, ...numbers),
        value("flags", i) ? chips(i) : null,
      ),
    );
  }

  // ---- table ---------------------------------------------------------------------------------------
  function cell(name, i) {
    if (name === "id") return make("td", {}, make("a", detailLink(i), value("id", i)));
    if (name === "flags") return make("td", {}, chips(i));
    const { kind } = columns.get(name);
    if (kind === "number") {
      const [text, error] = rounded(value(name, i), value(`${name}_err`, i), 4);
      return make("td", { class: "right" }, text, error ? make("span", { class: "error" }, ` ± ${error}`) : null);
    }
    if (kind === "truth") return make("td", {}, value(name, i) ? "yes" : "no");
    const text = value(name, i);
    if (name === "message") {
      const colour = value("status", i) === "failed" ? "message" : null;
      return make("td", { class: "wide", title: text }, make("span", { class: colour }, text));
    }
    return make("td", {}, text);
  }

  function table(rows) {
    const names = state.cols && state.cols.length ? state.cols : TABLE.filter(has);
    const head = names.map((name) => {
      const { unit, about, kind } = columns.get(name);
      const sorted = state.sort === name;
      const button = make(
        "button",
        {
          type: "button", title: about,
          on: { click: () => change({ sort: name, down: sorted ? !state.down : false }) },
        },
        name, unit ? make("small", {}, ` ${unit}`) : null, sorted ? (state.down ? " ↓" : " ↑") : null,
      );
      const order = sorted ? (state.down ? "descending" : "ascending") : "none";
      return make("th", { scope: "col", "aria-sort": order, class: kind === "number" && name !== "flags" ? "right" : null }, button);
    });
    const withPictures = rows.some((i) => thumbnails[i] || source.thumbnails[i] === "1" || hasFile("previews", i));
    if (withPictures) head.unshift(make("th", { scope: "col" }, make("span", { class: "plain" }, "picture")));
    const lines = rows.map((i) =>
      make("tr", {}, withPictures ? make("td", {}, picture(i)) : null, ...names.map((name) => cell(name, i))));
    const boxes = held.map(({ name }) => {
      const box = make("input", { type: "checkbox", checked: names.includes(name) });
      box.addEventListener("change", () => {
        const next = held.map((c) => c.name).filter((n) => (n === name ? box.checked : names.includes(n)));
        pickerOpen = true;
        change({ cols: next.join() === TABLE.filter(has).join() ? null : next });
      });
      return make("label", { title: columns.get(name).about }, box, name);
    });
    const picker = make("details", { class: "picker", open: pickerOpen }, make("summary", {}, "Columns"), make("div", {}, ...boxes));
    picker.addEventListener("toggle", () => (pickerOpen = picker.open));
    return [
      picker,
      make("div", { class: "scroll objects", tabindex: 0, role: "region", "aria-label": "Table of objects" },
        make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines))),
    ];
  }
  let pickerOpen = false;

  // ---- plots -----------------------------------------------------------------------------------------
  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 210, 40, 10, 8, 26];

  function svg(tag, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, given] of Object.entries(attributes)) element.setAttribute(key, given);
    element.append(...children);
    return element;
  }

  const extents = new Map();
  function extent(name) {
    if (!extents.has(name)) {
      let [least, most] = [Infinity, -Infinity];
      for (const x of columns.get(name).values) {
        if (x === null) continue;
        if (x < least) least = x;
        if (x > most) most = x;
      }
      extents.set(name, least > most ? [null, null] : [least, most]);
    }
    return extents.get(name);
  }

  // An axis over nearly all values of a column; far outliers would squeeze the rest.
  function axisOf(name, from, to) {
    const log = LOG.has(name);
    const sorted = columns.get(name).values.filter((x) => x !== null && (!log || x > 0)).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const map = log ? Math.log10 : (x) => x;
    const at = (fraction) => map(sorted[Math.round(fraction * (sorted.length - 1))]);
    let [low, high] = [at(0), at(1)];
    const [inner, outer] = [at(0.005), at(0.995)];
    const margin = 0.5 * (outer - inner) || 0.5;
    low = Math.max(low, inner - margin);
    high = Math.min(high, outer + margin);
    if (high - low < 1e-9 * Math.max(1, Math.abs(low))) [low, high] = [low - 0.5, high + 0.5];
    const pad = 0.02 * (high - low);
    low -= pad;
    high += pad;
    return {
      log, low, high,
      fraction: (x) => ((!log || x > 0) ? (map(x) - low) / (high - low) : NaN),
      screen(x) { return from + (to - from) * this.fraction(x); },
      back(s) { const m = low + ((s - from) / (to - from)) * (high - low); return log ? 10 ** m : m; },
    };
  }

  function ticks(axis) {
    const found = [];
    if (axis.log) {
      const decades = axis.high - axis.low;
      const steps = decades > 3.2 ? [1] : decades > 1.3 ? [1, 3] : [1, 2, 3, 5, 7];
      for (let p = Math.floor(axis.low); p <= axis.high; p++) {
        for (const s of steps) {
          const x = s * 10 ** p;
          if (Math.log10(x) >= axis.low && Math.log10(x) <= axis.high) found.push(x);
        }
      }
      if (found.length >= 2) return found;
      found.length = 0;
    }
    const [low, high] = axis.log ? [10 ** axis.low, 10 ** axis.high] : [axis.low, axis.high];
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const round = power * [1, 2, 5, 10].find((m) => m * power >= rough);
    const step = axis.whole ? Math.max(1, round) : round;
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(10)));
    return found;
  }

  function frame(axisX, axisY) {
    const parts = [svg("path", { class: "axis", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` })];
    for (const x of ticks(axisX)) {
      const s = axisX.screen(x);
      parts.push(svg("path", { class: "axis", d: `M${s} ${HEIGHT - BOTTOM}v4` }));
      parts.push(svg("text", { x: s, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, short(x, 3)));
    }
    for (const y of ticks(axisY)) {
      const s = axisY.screen(y);
      parts.push(svg("path", { class: "axis", d: `M${LEFT} ${s}h-4` }));
      parts.push(svg("text", { x: LEFT - 6, y: s + 4, "text-anchor": "end" }, short(y, 3)));
    }
    return parts;
  }

  const label = (name) => (unitOf(name) ? `${name} [${unitOf(name)}]` : name);
  const eventX = (drawing, event) => {
    const box = drawing.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * WIDTH, ((event.clientY - box.top) / box.height) * HEIGHT];
  };

  function histogram(name) {
    const axis = axisOf(name, LEFT, WIDTH - RIGHT);
    if (!axis) return make("figure", {}, make("figcaption", {}, label(name), make("small", {}, "no values")));
    const { values } = columns.get(name);
    const bins = 32;
    const fill = (indices) => {
      const counts = new Array(bins).fill(0);
      let outside = 0;
      for (const i of indices) {
        if (values[i] === null) continue;
        const k = Math.floor(axis.fraction(values[i]) * bins);
        if (k >= 0 && k < bins) counts[k]++;
        else outside++;
      }
      return [counts, outside];
    };
    const [all] = fill(values.keys());
    const [some, outside] = fill(chosen);
    const most = Math.max(1, ...all);
    const up = { log: false, whole: true, low: 0, high: most * 1.05, screen: (y) => HEIGHT - BOTTOM - (y / (most * 1.05)) * (HEIGHT - BOTTOM - TOP) };
    const wide = (WIDTH - RIGHT - LEFT) / bins;
    const outline = (counts, name) => svg("path", {
      class: name,
      d: counts.map((c, k) => (c ? `M${(LEFT + k * wide + 0.5).toFixed(2)} ${HEIGHT - BOTTOM}V${up.screen(c).toFixed(2)}h${(wide - 1).toFixed(2)}V${HEIGHT - BOTTOM}z` : "")).join(""),
    });
    const brush = svg("rect", { class: "brush", y: TOP, height: HEIGHT - BOTTOM - TOP, x: 0, width: 0 });
    const drawing = svg(
      "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "drag", role: "img", "aria-label": `Histogram of ${name}` },
      svg("rect", { x: 0, y: 0, width: WIDTH, height: HEIGHT, "fill-opacity": 0 }),
      outline(all, "all"), outline(some, "chosen"), ...frame(axis, up), brush,
    );
    let start = null;
    const span = (event) => {
      const clamp = (x) => Math.min(WIDTH - RIGHT, Math.max(LEFT, x));
      return [clamp(start), clamp(eventX(drawing, event)[0])].sort((a, b) => a - b);
    };
    drawing.addEventListener("pointerdown", (event) => {
      start = eventX(drawing, event)[0];
      drawing.setPointerCapture(event.pointerId);
    });
    drawing.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const [a, b] = span(event);
      brush.setAttribute("x", a);
      brush.setAttribute("width", b - a);
    });
    drawing.addEventListener("pointercancel", () => (start = null));
    drawing.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const [a, b] = span(event);
      start = null;
      const ranges = new Map(state.ranges);
      if (b - a < 4) ranges.delete(name);
      else ranges.set(name, [a, b].map((s) => Number(axis.back(s).toPrecision(3))));
      change({ ranges });
    });
    return make("figure", {}, make("figcaption", {}, label(name), outside ? make("small", {}, `${outside} beyond the axis`) : null), drawing);
  }

  function scatter(nameX, nameY) {
    const [axisX, axisY] = [axisOf(nameX, LEFT, WIDTH - RIGHT), axisOf(nameY, HEIGHT - BOTTOM, TOP)];
    const title = `${label(nameY)} against ${label(nameX)}`;
    if (!axisX || !axisY) return make("figure", {}, make("figcaption", {}, title, make("small", {}, "no values")));
    const [xs, ys] = [columns.get(nameX).values, columns.get(nameY).values];
    const place = (i) => {
      if (xs[i] === null || ys[i] === null) return null;
      const [fx, fy] = [axisX.fraction(xs[i]), axisY.fraction(ys[i])];
      return fx >= 0 && fx <= 1 && fy >= 0 && fy <= 1 ? [axisX.screen(xs[i]), axisY.screen(ys[i])] : null;
    };
    const dots = (indices, name) => {
      const parts = [];
      for (const i of indices) {
        const p = place(i);
        if (p) parts.push(`M${p[0].toFixed(1)} ${p[1].toFixed(1)}h0`);
      }
      return svg("path", { class: `dots ${name}`, d: parts.join("") });
    };
    const said = make("small", {});
    const drawing = svg(
      "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "points", role: "img", "aria-label": `Scatter plot of ${title}` },
      svg("rect", { x: 0, y: 0, width: WIDTH, height: HEIGHT, "fill-opacity": 0 }),
      dots(xs.keys(), "others"), dots(chosen, "chosen"), ...frame(axisX, axisY),
    );
    const nearest = (event) => {
      const [x, y] = eventX(drawing, event);
      let [best, least] = [null, 64];
      for (const i of chosen) {
        const p = place(i);
        const far = p ? (p[0] - x) ** 2 + (p[1] - y) ** 2 : Infinity;
        if (far < least) [best, least] = [i, far];
      }
      return best;
    };
    drawing.addEventListener("pointermove", (event) => {
      const i = nearest(event);
      said.textContent = i === null ? "" : value("id", i);
    });
    drawing.addEventListener("click", (event) => {
      const i = nearest(event);
      if (i !== null) change({ id: value("id", i) }, true);
    });
    return make("figure", {}, make("figcaption", {}, title, said), drawing);
  }

  function plots() {
    const [mag, flux] = has("fraction") ? ["mag_total", "flux_total"] : ["mag", "flux"];
    const brightness = extent(mag)[0] === null ? flux : mag;
    const sizes = has("re_arcsec") && extent("re_arcsec")[0] !== null ? "re_arcsec" : "re";
    const swatch = (colour, text) => make("span", {}, make("i", { style: `background: var(${colour})` }), text);
    return [
      make("div", { class: "legend" }, swatch("--bar", "shown"), swatch("--bar-all", "all objects"),
        make("span", {}, "Drag over a histogram to set a range, press it to clear; press a point to open the object.")),
      make("div", { class: "plots" },
        ...[brightness, "re_total", "fraction", sizes, "n", "q", "chi2_red", "snr"].filter(has).map(histogram),
        scatter(brightness, sizes), scatter(sizes, "n")),
    ];
  }

  // ---- one object --------------------------------------------------------------------------------------
  function detail(i) {
    const id = value("id", i);
    const at = chosen.indexOf(i);
    const step = (k) => {
      if (at < 0 || at + k < 0 || at + k >= chosen.length) return;
      change({ id: value("id", chosen[at + k]) });
    };
    byId("detail").step = step;
    const go = (k, sign, name) => make("button", {
      type: "button", "aria-label": name, title: `${name} (${sign} key)`,
      disabled: at < 0 || at + k < 0 || at + k >= chosen.length, on: { click: () => step(k) },
    }, sign);
    const bar = make(
      "div", { class: "bar" },
      make("h2", { id: "detail-title" }, id),
      make("span", { class: "place" }, at < 0 ? "not in the selection" : `${whole(at + 1)} / ${whole(chosen.length)}`),
      go(-1, "←", "Previous"), go(1, "→", "Next"),
      make("button", { type: "button", "aria-label": "Close", title: "Close (Esc)", on: { click: () => byId("detail").close() } }, "✕"),
    );

    const parts = [];
    const small = () => {
      const image = picture(i);
      image?.classList.add("big", "small");
      return image;
    };
    if (hasFile("previews", i)) {
      const image = make("img", { class: "big", src: previewAddress(i), alt: `Data, model, residual, segmentation and radial profile of ${id}` });
      image.addEventListener("error", () => {
        const note = make("p", { class: "said" }, `The picture previews/${stem(i)}.png is not beside this report.`);
        image.replaceWith(...[thumbnails[i] ? small() : null, note].filter(Boolean));
      });
      const whole = make("a", { href: previewAddress(i), target: "_blank", title: "Open the picture by itself" }, image);
      parts.push(make("div", { class: "pan", tabindex: 0, role: "region", "aria-label": "Picture" }, whole));
    } else if (thumbnails[i]) parts.push(small());
    const failed = value("status", i) === "failed";
    const message = value("message", i) || (failed ? "no reason recorded" : "");
    if (message) parts.push(make("p", { class: failed ? "said failed" : "said" }, message));
    const set = flagsOf(i);
    if (set.length) {
      parts.push(make("ul", { class: "flag-list" }, ...set.map((flag) =>
        make("li", {}, chip(flag), ` ${flag.meaning}`,
          flag.name === "AT_BOUND" && value("at_bound", i) ? `: ${value("at_bound", i)}` : ""))));
    }

    const part = Math.floor(i / source.part);
    if (source.part && !loaded.has(part)) {
      loaded.set(part, null);
      const script = make("script", { src: `report_rows/${part}.js` });
      script.addEventListener("load", drawDetail);
      script.addEventListener("error", () => {
        byId("detail").querySelector(".inside")?.append(
          make("p", { class: "said" }, `The other columns (report_rows/${part}.js) are not beside this report.`));
      });
      document.head.append(script);
    }
    const fitted = [...columns.values()].filter((c) => has(`${c.name}_err`));
    const lines = fitted.filter(({ name }) => value(name, i) !== null).map(({ name, unit, about }) =>
      make("tr", {},
        make("th", { scope: "row" }, name),
        make("td", { class: "right" }, measured(name, i)),
        make("td", {}, unit),
        make("td", { class: "right error" }, has(`${name}_init`) ? short(value(`${name}_init`, i)) : ""),
        make("td", { class: "about" }, about)));
    if (!failed) {
      parts.push(make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ...["parameter", "value ± error", "unit", "start", "meaning"].map((text, k) =>
          make("th", { scope: "col", class: k === 4 ? "about" : k === 1 || k === 3 ? "right" : null }, make("span", { class: "plain" }, text))))),
        make("tbody", {}, ...lines))));
    }
    const told = new Set(["id", "message", "flags", ...fitted.flatMap(({ name }) => [name, `${name}_err`, `${name}_init`])]);
    const facts = [...columns.values()].filter(({ name, kind }) => {
      if (told.has(name)) return false;
      const x = value(name, i);
      return x !== null && x !== "" && !(failed && kind === "number" && x === 0);
    });
    parts.push(make("dl", { class: "facts" }, ...facts.map(({ name, kind, unit, about }) => {
      const x = value(name, i);
      const digits = name.startsWith("ra") || name.startsWith("dec") ? 10 : 5;
      const text = kind === "truth" ? (x ? "yes" : "no") : kind === "number" ? short(x, digits) : x;
      return make("div", { title: about }, make("dt", {}, name), make("dd", {}, unit ? `${text} ${unit}` : text));
    })));
    if (hasFile("posteriors", i)) {
      const path = `posterior/${encodeURIComponent(stem(i))}`;
      const image = make("img", { class: "big", src: `${path}.png`, alt: `Posterior of ${id}, by pairs of parameters`, loading: "lazy" });
      parts.push(make("div", { class: "pan", tabindex: 0, role: "region", "aria-label": "Posterior" }, image));
      parts.push(make("p", {}, make("a", { href: `${path}.nc` }, `posterior/${stem(i)}.nc`), " holds its samples."));
    }
    if (hasFile("objects", i)) {
      const path = `objects/${encodeURIComponent(stem(i))}.fits`;
      parts.push(make("p", {}, make("a", { href: path }, `objects/${stem(i)}.fits`), " holds the images of this fit."));
    }
    byId("detail").replaceChildren(bar, make("div", { class: "inside" }, ...parts));
  }

  function drawDetail() {
    const dialog = byId("detail");
    const i = state.id ? indexOfId.get(state.id) : undefined;
    if (i === undefined) {
      if (dialog.open) dialog.close();
      return;
    }
    const focused = dialog.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    detail(i);
    if (!dialog.open) dialog.showModal();
    const again = focused && dialog.querySelector(`[aria-label="${focused}"]:not(:disabled)`);
    (again || dialog.querySelector('[aria-label="Close"]')).focus({ preventScroll: true });
    dialog.scrollTop = 0;
  }

  function buildDetail() {
    const dialog = byId("detail");
    dialog.addEventListener("close", () => {
      const id = state.id;
      if (!id) return;
      change({ id: "" });
      const links = [...byId("view").querySelectorAll("a")];
      links.find((a) => parseHash(a.getAttribute("href")).id === id)?.focus({ preventScroll: true });
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") dialog.step(-1);
      if (event.key === "ArrowRight") dialog.step(1);
    });
  }

  // ---- the page ------------------------------------------------------------------------------------------
  let drawn = "";

  function draw() {
    const wanted = formatHash({ ...state, id: "" });
    if (wanted !== drawn) {
      drawn = wanted;
      select();
      drawSummary();
      drawFilters();
      drawToolbar();
      drawView();
    }
    drawDetail();
  }

  function drawView() {
    const view = byId("view");
    const perPage = state.view === "table" ? LINES : CARDS;
    const last = Math.max(1, Math.ceil(chosen.length / perPage));
    const page = Math.min(state.page, last);
    const rows = chosen.slice((page - 1) * perPage, page * perPage);
    if (state.view === "plots" && size) view.replaceChildren(...plots());
    else if (!rows.length) {
      view.replaceChildren(make("p", { class: "empty" }, size ? "No object passes these filters." : "The catalogue has no objects."));
    } else if (state.view === "table") {
      const before = view.querySelector(".scroll")?.scrollLeft || 0;
      view.replaceChildren(...table(rows));
      view.querySelector(".scroll").scrollLeft = before;
    } else view.replaceChildren(make("div", { class: "gallery" }, ...rows.map(card)));

    const turn = (to, text) => make("button", {
      type: "button", disabled: to < 1 || to > last || to === page,
      on: { click: () => { change({ page: to }, true); byId("main").scrollIntoView(); } },
    }, text);
    if (state.view === "plots" || last === 1) byId("pages").replaceChildren();
    else {
      byId("pages").replaceChildren(
        turn(1, "First"), turn(page - 1, "Previous"),
        make("span", { class: "number" }, `page ${whole(page)} of ${whole(last)}`),
        turn(page + 1, "Next"), turn(last, "Last"),
      );
    }
  }

  function fromHash() {
    state = parseHash(location.hash);
    draw();
  }

  buildSummary();
  buildFilters();
  buildToolbar();
  buildDetail();
  drawRanges();
  window.addEventListener("hashchange", fromHash);
  window.addEventListener("popstate", fromHash);
  fromHash();
})();
