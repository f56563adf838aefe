// What the page can do beyond being read: filter and sort the gallery, lay explanations over one
// another, sort tables, save tables and figures as CSV. Without this script the page is complete;
// controls appear only where it runs. Names, classes and concepts are untrusted: they are read
// from text and attributes and written as text, never as markup.
(() => {
  "use strict";

  const find = (selector, root = document) => root.querySelector(selector);
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
  const order = new Intl.Collator(undefined, { numeric: true });

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function textOf(node) {
    return node.textContent.replace(/\s+/g, " ").trim();
  }

  // ---- Tables: what a cell says, and its value

  const MISSING = new Set(["", "–", "no interval"]);

  // A number as the page writes it: a true minus, thousands apart, a percent sign.
  function asNumber(text) {
    const plain = text.replace("−", "-").replace(/[\s,]/g, "");
    const found = /^([-+]?\d*\.?\d+(?:e[-+]?\d+)?)(%?)$/i.exec(plain);
    return found ? Number(found[1]) / (found[2] ? 100 : 1) : null;
  }

  function valueOf(cell) {
    const data = find("data[value]", cell);
    return data ? data.value : textOf(cell);
  }

  // What a cell says beside its value, such as an interval.
  function besideOf(cell) {
    if (!find("data[value]", cell)) return "";
    const copy = cell.cloneNode(true);
    find("data[value]", copy).remove();
    return textOf(copy);
  }

  // Repeat a cell that spans rows in each of them, so that rows can change places.
  function expandRows(table) {
    for (const body of table.tBodies) {
      for (const cell of findAll("[rowspan]", body)) {
        const count = cell.rowSpan;
        const place = [...cell.parentNode.cells].indexOf(cell);
        cell.removeAttribute("rowspan");
        let row = cell.parentNode;
        for (let more = 1; more < count && row.nextElementSibling; more += 1) {
          row = row.nextElementSibling;
          row.insertBefore(cell.cloneNode(true), row.cells[place] ?? null);
        }
        if (cell.scope === "rowgroup") {
          for (const one of body.rows) if (one.cells[place]) one.cells[place].scope = "row";
        }
      }
    }
  }

  function isGroup(row) {
    return row.classList.contains("group");
  }

  function compareCells(one, other, sign) {
    if (one.missing || other.missing) return one.missing - other.missing; // last, either way
    if (one.number !== null && other.number !== null) return sign * (one.number - other.number);
    if (one.number !== null || other.number !== null) return one.number !== null ? -1 : 1;
    return sign * order.compare(one.text, other.text);
  }

  function sortRows(rows, column, sign) {
    const keyed = rows.map((row, index) => {
      const text = row.cells[column] ? valueOf(row.cells[column]) : "";
      return { row, index, text, number: asNumber(text), missing: MISSING.has(text) ? 1 : 0 };
    });
    keyed.sort((one, other) => compareCells(one, other, sign) || one.index - other.index);
    return keyed.map(({ row }) => row);
  }

  function makeSortable(table) {
    const head = table.tHead;
    if (!head || head.classList.contains("unseen") || find("tbody img", table)) return;
    const heads = [...head.rows[head.rows.length - 1].cells];
    let original = null; // of each body its rows, before the first click

    function sort(column, direction) {
      if (!original) {
        expandRows(table);
        const bodies = [...table.tBodies];
        if (!findAll("tr", table).some(isGroup)) {
          for (const body of bodies.slice(1)) {
            bodies[0].append(...body.rows);
            body.remove();
          }
        }
        original = [...table.tBodies].map((body) => [body, [...body.rows]]);
      }
      const sign = { ascending: 1, descending: -1 }[direction];
      for (const [body, rows] of original) {
        const own = rows.filter((row) => !isGroup(row));
        body.append(...rows.filter(isGroup), ...(sign ? sortRows(own, column, sign) : own));
      }
      heads.forEach((one, index) => {
        if (!find("button", one)) return;
        one.setAttribute("aria-sort", index === column ? direction : "none");
      });
    }

    heads.forEach((one, column) => {
      if (!textOf(one) || one.colSpan > 1 || one.classList.contains("bar")) return;
      const button = make("button", { type: "button", className: "sort" }, ...one.childNodes);
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        sort(column, next[one.getAttribute("aria-sort")]);
      });
      one.append(button);
      one.setAttribute("aria-sort", "none");
    });
  }

  // ---- CSV

  function quote(text) {
    return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function plain(text) {
    if (text === "–") return "";
    return /^−[\d.,]+$/.test(text) ? text.replace("−", "-") : text;
  }

  function headsOf(row) {
    return [...row.cells].filter((cell) => !cell.classList.contains("bar"));
  }

  // The cells of a table as a grid: spans filled, rows that name a group turned into a column.
  function gridOf(table) {
    const head = table.tHead ? [...table.tHead.rows].at(-1) : null;
    const grouped = findAll("tbody tr", table).some(isGroup);
    const rows = [];
    for (const body of table.tBodies) {
      let group = "";
      const waiting = new Map(); // by column: a cell from above, and for how many rows
      for (const row of body.rows) {
        if (isGroup(row)) {
          group = textOf(row);
          continue;
        }
        const cells = grouped ? [{ value: group, beside: "" }] : [];
        const first = cells.length;
        const fill = () => {
          let held = waiting.get(cells.length);
          while (held) {
            if (held.left === 1) waiting.delete(cells.length);
            held.left -= 1;
            cells.push(held.cell);
            held = waiting.get(cells.length);
          }
        };
        for (const cell of row.cells) {
          if (cell.classList.contains("bar")) continue; // what its numbers are beside it
          fill();
          const said = { value: plain(valueOf(cell)), beside: besideOf(cell) };
          if (cell.rowSpan > 1) waiting.set(cells.length, { cell: said, left: cell.rowSpan - 1 });
          cells.push(said);
          for (let more = 1; more < cell.colSpan; more += 1) cells.push({ value: "", beside: "" });
        }
        fill();
        if (cells.length > first) rows.push(cells);
      }
    }
    const names = [...(grouped ? ["Group"] : []), ...(head ? headsOf(head).map(textOf) : [])];
    return { names, rows };
  }

  function tableToCsv(table) {
    const { names, rows } = gridOf(table);
    const width = Math.max(names.length, ...rows.map((row) => row.length));
    const columns = [];
    for (let index = 0; index < width; index += 1) {
      const name = names[index] ?? "";
      columns.push([name, index, "value"]);
      if (rows.some((row) => row[index]?.beside)) columns.push([`${name} (beside)`, index, "beside"]);
    }
    const lines = [columns.map(([name]) => name)];
    for (const row of rows) lines.push(columns.map(([, index, key]) => row[index]?.[key] ?? ""));
    return lines.map((line) => `${line.map(quote).join(",")}\r\n`).join("");
  }

  // A chart's own CSV, in which a bare ^ stands for what the line above says.
  function chartToCsv(text) {
    let above = [];
    let line = [];
    let out = "";
    for (const [, cell, end] of text.matchAll(/("(?:[^"]|"")*"|[^",\n]*)(,|\n)/g)) {
      line.push(cell === "^" ? above[line.length] : cell);
      if (end === ",") continue;
      out += `${line.join(",")}\r\n`;
      above = line;
      line = [];
    }
    return out;
  }

  function save(text, name) {
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    const link = make("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  function fileName(element, title) {
    const study = find("main").dataset.study;
    const section = element.closest("main > section")?.id ?? "";
    const layer = element.closest("section.layer");
    const model = layer ? textOf(find("h3", layer) ?? layer.ownerDocument.createElement("i")) : "";
    const parts = [study, section, model, title].map((part) =>
      part.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, ""));
    return `${parts.filter(Boolean).join("-").slice(0, 120)}.csv`;
  }

  function offerCsv(box, element, title, text) {
    const button = make("button", { type: "button", className: "csv" }, "CSV");
    button.setAttribute("aria-label", `Save as CSV: ${title}`);
    button.addEventListener("click", () => save(text(), fileName(element, title)));
    box.append(button);
  }

  for (const table of findAll("main table")) {
    if (find("tbody img", table)) continue;
    const box = table.closest(".scroll");
    if (!box) continue;
    const title = textOf(table.caption ?? make("i")) || box.getAttribute("aria-label") || "table";
    offerCsv(box, table, title, () => tableToCsv(table));
    makeSortable(table);
  }
  for (const chart of findAll("main svg[data-csv]")) {
    const title = chart.getAttribute("aria-label").split(". ")[0];
    offerCsv(chart.parentNode, chart, title, () => chartToCsv(chart.dataset.csv));
  }

  // ---- Gallery: filters, order, links

  const gallery = find("#gallery");
  const tools = gallery && find(".tools", gallery);
  if (!tools) return; // a page without explanations has tables only

  const cards = findAll(".card", gallery).map((element, index) => ({
    element,
    index,
    ...JSON.parse(element.dataset.card),
  }));
  const several = new Set(cards.map((card) => card.model)).size > 1;
  const nameOf = (card) => (several ? `${card.name}, ${card.model}` : card.name);
  const byId = new Map(cards.map((card) => [card.element.id, card]));
  const sections = findAll(".layer", gallery).map((element) => {
    const children = [...element.children];
    const groups = [];
    for (const child of children) {
      if (child.classList.contains("level")) groups.push({ heading: child, cards: [] });
      else if (byId.has(child.id) && groups.length) groups.at(-1).cards.push(byId.get(child.id));
    }
    const own = children.filter((child) => byId.has(child.id)).map((child) => byId.get(child.id));
    return { element, children, groups, cards: own };
  });
  const controls = Object.fromEntries(
    findAll("[name]", tools).map((control) => [control.name, control]),
  );
  const status = find("[role=status]", tools);
  let pinned = null; // a picture that a link names: shown whatever the filters say
  let sorted = "";

  const descending = (key) => (one, other) => ascending(key)(other, one);
  const ascending = (key) => (one, other) => one[key] - other[key];
  const known = (key, compare) => (one, other) =>
    (one[key] === null) - (other[key] === null) || (one[key] === null ? 0 : compare(one, other));
  const ORDERS = {
    name: (one, other) => order.compare(one.name, other.name),
    likeliest: known("probability", descending("probability")),
    unlikeliest: known("probability", ascending("probability")),
    disagreement: known("agreement", ascending("agreement")),
  };

  function passes(card, wanted) {
    return (
      (!wanted.name || card.name.toLowerCase().includes(wanted.name)) &&
      (!wanted.class || card.classes.includes(wanted.class)) &&
      (!wanted.model || card.model === wanted.model) &&
      (!wanted.method || card.methods.includes(wanted.method)) &&
      (!wanted.correct || card.correct === wanted.correct) &&
      (!wanted.clutter || String(card.clutter) === wanted.clutter)
    );
  }

  function arrange(way) {
    if (way === sorted) return;
    sorted = way;
    for (const section of sections) {
      if (!way) {
        section.element.append(...section.children);
        continue;
      }
      const rows = [...section.cards].sort(
        (one, other) => ORDERS[way](one, other) || one.index - other.index,
      );
      section.element.append(...rows.map((card) => card.element));
    }
  }

  function update() {
    const wanted = Object.fromEntries(
      Object.entries(controls).map(([name, control]) => [name, control.value]),
    );
    wanted.name = wanted.name.trim().toLowerCase();
    arrange(Object.hasOwn(ORDERS, wanted.sort) ? wanted.sort : "");
    let shown = 0;
    let linked = false;
    for (const card of cards) {
      const passed = passes(card, wanted);
      const kept = card.element.id === pinned && !passed;
      card.element.hidden = !passed && !kept;
      shown += passed || kept;
      linked ||= kept;
    }
    for (const figure of findAll("figure[data-method]", gallery)) {
      figure.hidden = Boolean(wanted.method) && figure.dataset.method !== wanted.method;
    }
    for (const section of sections) {
      section.element.hidden = section.cards.every((card) => card.element.hidden);
      for (const { heading, cards: own } of section.groups) {
        heading.hidden = Boolean(sorted) || own.every((card) => card.element.hidden);
        find(".quiet", heading).hidden = own.some((card) => card.element.hidden);
      }
    }
    status.textContent =
      `${shown} of ${cards.length} shown` +
      (linked ? "; one of them because a link names it" : "") +
      (shown ? "" : ": no picture is like this");
  }

  // The state stands behind the hash, so that a link shows the same again.
  function keepState() {
    const state = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) {
      if (control.value) state.set(name, control.value);
    }
    const hash = state.size ? `#gallery?${state}` : "#gallery";
    history.replaceState(null, "", hash);
  }

  function readHash() {
    const hash = location.hash.slice(1);
    if (hash.startsWith("gallery?")) {
      const state = new URLSearchParams(hash.slice("gallery?".length));
      for (const [name, control] of Object.entries(controls)) {
        control.value = state.get(name) ?? "";
        if (control.selectedIndex === -1) control.value = ""; // no such choice in this study
      }
      pinned = null;
      update();
      gallery.scrollIntoView();
      return;
    }
    if (!byId.has(hash)) return;
    const { element } = byId.get(hash);
    const hidden = element.hidden;
    pinned = hash;
    update();
    if (hidden) element.scrollIntoView();
  }

  tools.addEventListener("input", () => {
    pinned = null;
    update();
    keepState();
  });
  find("[data-reset]", tools).addEventListener("click", () => {
    for (const control of Object.values(controls)) control.value = "";
    pinned = null;
    update();
    keepState();
  });
  addEventListener("hashchange", readHash);

  // ---- Compare: two explanations over the same picture

  const dialog = find("#compare");
  const stage = find(".stage", dialog);
  const [first, second] = ["first", "second"].map((name) => find(`[name=${name}]`, dialog));
  const opacity = find("[name=opacity]", dialog);
  const flip = find("[data-flip]", dialog);
  let compared = null; // the card
  let base = make("img"); // its picture
  let layers = []; // what can be laid over it
  let flipped = false;

  const bar = find(".colourbar", gallery);
  if (bar) {
    const copy = bar.cloneNode(true);
    find("defs", copy).remove(); // the page's own gradient serves both
    find(".aside", dialog).append(copy);
  }

  // A heatmap's colours are blended over the picture, which turns grey under them so that all
  // colour is the map's; what is drawn on the picture itself (outlines, a mask) is there in full
  // from the middle of the slider on.
  function draw() {
    const chosen = Number((flipped ? second : first).value);
    const strength = opacity.value / 100;
    const full = Math.min(1, 2 * strength);
    for (const [index, layer] of layers.entries()) {
      const own = layer.heat ? strength : full;
      layer.image.style.opacity = index === chosen ? own : 0;
    }
    base.style.filter = layers[chosen]?.heat ? `grayscale(${full})` : "none";
    const label = layers[chosen]?.label ?? "";
    find("[data-shown]", dialog).textContent = `Shown: ${label}`;
    find("output", dialog).textContent = `${opacity.value} %`;
    flip.setAttribute("aria-pressed", String(flipped));
  }

  function turn(to) {
    flipped = to;
    draw();
  }

  function show(card, method = null) {
    const kept = [first, second].map((select) => select.selectedOptions[0]?.text);
    compared = card;
    flipped = false;
    const rows = findAll(".thumbs", card.element);
    layers = [];
    for (const row of rows) {
      const target = rows.length > 1 ? textOf(find("b", row.previousElementSibling)) : "";
      for (const figure of findAll("figure", row)) {
        const image = find("img", figure);
        if (!image || !figure.dataset.layer) continue;
        const label = textOf(find(".name", figure)) + (target ? `, for ${target}` : "");
        layers.push({ label, figure, source: image, heat: image.dataset.heat });
      }
    }
    base = find("figure[data-base] img", card.element).cloneNode();
    const images = layers.map((layer) => {
      layer.image = layer.heat
        ? make("img", { src: layer.heat, alt: layer.source.alt })
        : layer.source.cloneNode();
      return layer.image;
    });
    for (const image of [base, ...images]) image.loading = "eager";
    stage.replaceChildren(base, ...images);
    for (const select of [first, second]) {
      select.replaceChildren(
        ...layers.map((layer, index) => new Option(layer.label, String(index))),
      );
    }
    // The same two as before, where this picture has them.
    const places = kept.map((text) => layers.findIndex((layer) => layer.label === text));
    first.value = String(Math.max(0, places[0]));
    second.value = String(places[1] >= 0 ? places[1] : Math.min(1, layers.length - 1));
    if (method) first.value = String(Math.max(0, layers.findIndex((one) => one.figure === method)));
    find("h3", dialog).textContent = nameOf(card);
    draw();
    if (!dialog.open) dialog.showModal();
  }

  // The neighbour among those shown, in the order in which they stand.
  function step(by) {
    const shown = findAll(".card:not([hidden])", gallery).filter((one) => find("[data-layer] img", one));
    const place = shown.indexOf(compared.element);
    show(byId.get(shown[(place + by + shown.length) % shown.length].id));
  }

  for (const control of [first, second, opacity]) {
    control.addEventListener("input", () => {
      if (control === first) flipped = false;
      if (control === second) flipped = true;
      draw();
    });
  }
  flip.addEventListener("click", () => turn(!flipped));
  // A mouse that rests on the picture sees the second one; a finger or pen turns it over.
  stage.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && turn(true));
  stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && turn(false));
  stage.addEventListener("pointerup", (event) => event.pointerType !== "mouse" && turn(!flipped));
  find("[data-close]", dialog).addEventListener("click", () => dialog.close());
  find("[data-previous]", dialog).addEventListener("click", () => step(-1));
  find("[data-next]", dialog).addEventListener("click", () => step(1));

  for (const card of cards) {
    const { element } = card;
    if (!find("[data-layer] img", element)) continue;
    const button = make("button", { type: "button", className: "tool" }, "Compare");
    button.setAttribute("aria-label", `Compare the explanations of ${nameOf(card)}`);
    button.setAttribute("aria-haspopup", "dialog");
    find("header", element).append(button);
  }
  gallery.addEventListener("click", (event) => {
    const card = byId.get(event.target.closest(".card")?.id);
    if (!card) return;
    if (event.target.closest(".tool")) show(card);
    else if (event.target.matches("figure[data-layer] img")) show(card, event.target.closest("figure"));
  });

  tools.hidden = false;
  gallery.classList.add("live");
  update();
  readHash();
})();
