"use strict";
(() => {
{% include "page.js" %}

  const details = JSON.parse(get("details").textContent);

  // A table that fits into the window stays open, and its headings follow the page. A wider one is set closer
  // and in smaller type; where that is not enough, it scrolls in its own card, and its edges say so.
  const bar = document.querySelector(".filters");
  let height = 0;
  function follow() {
    const now = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    if (now !== height) root.style.setProperty("--bar", `${height = now}px`);
  }
  if (bar) {
    follow();
    new ResizeObserver(follow).observe(bar);
  }
  const frames = all(".frame"), widths = new Map();
  function fit(frame, room = frame.clientWidth) {
    const card = frame.querySelector(".card"), scroll = frame.querySelector(".scroll"), table = scroll.firstElementChild;
    if (!table.checkVisibility?.({ contentVisibilityAuto: true })) return;
    widths.set(frame, frame.clientWidth);
    const excess = () => table.offsetWidth / room;
    card.classList.remove("snug", "dense", "scrolls");
    const far = excess() > 2;
    card.classList.toggle("snug", excess() > 1);
    card.classList.toggle("dense", far || excess() > 1);
    card.classList.toggle("fits", excess() <= 1);
    card.classList.toggle("scrolls", excess() > 1);
    edges(card, scroll);
  }
  function edges(card, scroll) {
    card.classList.toggle("more-left", scroll.scrollLeft > 1);
    card.classList.toggle("more-right", scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 1);
  }
  const observer = new ResizeObserver((entries) => {
    for (const frame of entries.map((entry) => entry.target.parentNode)) if (widths.get(frame) !== frame.clientWidth) fit(frame);
  });
  for (const frame of frames) {
    // What is laid out while the page loads is fitted then, too, and not while somebody scrolls.
    if (!frame.closest(".lazy")) fit(frame);
    observer.observe(frame.querySelector(".ruler"));
    const scroll = frame.querySelector(".scroll");
    scroll.addEventListener("scroll", () => edges(scroll.parentNode, scroll), { passive: true });
  }

  // On paper every table is set as close as the page needs, and shrunk where it is wider even so. Folded notes open.
  const PAPER = 970; // pixels of a landscape page of Letter, which is narrower than A4
  let folded = [];
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const more of (folded = all(".more:not([open]):has(.note)"))) more.open = true;
    for (const frame of frames) {
      const room = PAPER - (frame.closest("figure") ? 40 : 0), card = frame.querySelector(".card"), table = frame.querySelector("table");
      fit(frame, room);
      card.style.setProperty("--room", room);
      card.style.setProperty("--natural", table.offsetWidth);
    }
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const more of folded) more.open = false;
    for (const frame of frames) fit(frame);
  });

  // Filters: rows by defense and access, columns by threat, by choice and by attack; a section with no row goes.
  const chosenIn = (id) => get(id)?.value ?? "";
  const words = () => (get("search")?.value.toLowerCase() ?? "").split(/\s+/).filter(Boolean);
  const boxes = all(".menu input");
  // Whether the attacker of a row sees the whole defense.
  const sees = (row) => ["white-box", "adaptive"].includes(row.dataset.access);
  const names = (query, label) => new Set(all(query).map((node) => node.dataset[label].toLowerCase()));
  const defenses = names(".board tbody tr", "defense"), attacks = names(".board .heads [data-kind=attack]", "label");
  // Defenses that have every word of a search; where there is none, words of attacks choose columns, and others rows.
  function search(text) {
    const has = (name) => (word) => name.includes(word), isIn = (known) => (word) => [...known].some((name) => name.includes(word));
    if ([...defenses].some((name) => text.every(has(name)))) return { row: (name) => text.every(has(name)), column: () => true, byAttack: false };
    const ofAttacks = text.filter(isIn(attacks)), ofDefenses = text.filter((word) => !ofAttacks.includes(word));
    const isKnown = ofDefenses.every(isIn(defenses));
    return {
      row: (name) => isKnown && (!ofDefenses.length || ofDefenses.some(has(name))),
      column: (name) => !ofAttacks.length || ofAttacks.some(has(name)),
      byAttack: ofAttacks.length > 0,
    };
  }
  // Columns in which no row that is left has anything go too, and so does the threat above no column.
  function fold(table) {
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const heads = all(".heads [data-label]", table);
    for (const head of heads) {
      const place = head.cellIndex;
      if (head.hidden || !rows.length || rows.some((row) => !row.cells[place].classList.contains("none"))) continue;
      for (const row of [head.parentNode, ...rows]) row.cells[place].hidden = true;
    }
    for (const group of all(".groups [data-group]", table)) {
      const width = heads.filter((head) => head.dataset.group === group.dataset.group && !head.hidden).length;
      group.hidden = width === 0;
      group.colSpan = Math.max(width, 1);
    }
  }
  function apply() {
    const text = words(), threat = chosenIn("threat"), access = chosenIn("access");
    const found = search(text);
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    let any = false;
    for (const section of all("main > section")) {
      const fits = (!chosenIn("dataset") || section.dataset.dataset === chosenIn("dataset")) && (!chosenIn("model") || section.dataset.model === chosenIn("model"));
      for (const cell of all("[data-label]", section)) {
        const { group, kind, label } = cell.dataset;
        const otherAttack = kind === "attack" && !found.column(label.toLowerCase());
        cell.hidden = off.has(label) || (threat && group && group !== "cost" && group !== threat) || otherAttack;
      }
      const attackFits = !found.byAttack || all(".board .heads [data-kind=attack]", section).some((head) => !head.hidden);
      const rows = all("tbody tr", section);
      for (const row of rows) row.hidden = (access && row.dataset.access !== access) || !found.row(row.dataset.defense.toLowerCase()) || !attackFits;
      for (const table of all("table", section)) fold(table);
      for (const table of all(".board", section)) sort(table);
      const left = new Set(rows.filter((row) => !row.hidden).map((row) => `${sees(row)} ${row.dataset.defense}`));
      for (const mark of all(".mark", section)) mark.classList.toggle("away", !left.has(`${mark.classList.contains("solid")} ${mark.dataset.defense}`));
      section.hidden = !fits || rows.every((row) => row.hidden);
      any ||= !section.hidden;
      const link = document.querySelector(`.index a[href="#${section.id}"]`);
      if (link) link.hidden = section.hidden;
    }
    for (const frame of frames) fit(frame);
    if (get("reset")) get("reset").hidden = !(text.length || off.size || ["dataset", "model", "threat", "access"].some(chosenIn));
    get("nothing").hidden = any || all("main > section").length === 0;
  }
  for (const control of all(".filters input, .filters select")) control.addEventListener("input", apply);
  get("reset")?.addEventListener("click", () => {
    for (const control of all(".filters > input, .filters select")) control.value = "";
    for (const box of boxes) box.checked = true;
    apply();
  });
  document.addEventListener("click", (event) => { for (const menu of all(".menu[open]")) if (!menu.contains(event.target)) menu.open = false; });
  document.addEventListener("keydown", (event) => {
    for (const menu of event.key === "Escape" ? all(".menu[open]") : []) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // Sorting, as leaderboard --sort does: the best first, then the other way round. The rows of a defense stay together.
  // What counts is its first row that is shown and whose attacker sees all of it; what is unknown stays last.
  const initial = new Map(all(".board").map((table) => [table, [...table.tBodies[0].rows]]));
  function rank(rows, head) {
    const place = head.cellIndex, isKnown = (cell) => cell.dataset.rank !== undefined;
    const cells = [...rows.filter(sees), ...rows.filter((row) => !sees(row))].map((row) => row.cells[place]);
    const value = cells.find(isKnown)?.dataset.rank ?? "";
    return value === "" ? null : Number(value);
  }
  function sort(table) {
    const head = table.querySelector(".heads [aria-sort=ascending], .heads [aria-sort=descending]");
    if (!head) return;
    const own = new Map(), byName = head.classList.contains("pin");
    for (const row of initial.get(table)) own.set(row.dataset.defense, [...(own.get(row.dataset.defense) ?? []), row]);
    const shown = (rows) => { const left = rows.filter((row) => !row.hidden); return left.length ? left : rows; };
    const order = [...own].map(([name, rows]) => [byName ? name.toLowerCase() : rank(shown(rows), head), rows]);
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const compare = (x, y) => (x === null || y === null ? (x === null) - (y === null) : sign * ((x > y) - (x < y)));
    table.tBodies[0].append(...order.sort(([x], [y]) => compare(x, y)).flatMap(([, rows]) => rows));
  }
  for (const button of all(".board .heads button")) button.addEventListener("click", () => {
    const head = button.closest("th"), { best } = head.dataset, isBest = head.getAttribute("aria-sort") === best;
    for (const other of all("[aria-sort]", head.parentNode)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", isBest ? { ascending: "descending", descending: "ascending" }[best] : best);
    sort(head.closest("table"));
  });

  // A number opens to its cells.
  const make = (tag, text, name) => { const node = document.createElement(tag); if (text !== undefined) node.textContent = text; if (name) node.className = name; return node; };
  const say = (value) => value === null || value === undefined ? "–" : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(5))) : Array.isArray(value) ? value.join(", ") || "–" : String(value);
  const percent = (value) => (100 * value).toFixed(2);
  function flat(value, prefix = "") {
    if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, say(value)]];
    return Object.entries(value).flatMap(([key, inner]) => flat(inner, prefix ? `${prefix} ${key.replaceAll("_", " ")}` : key.replaceAll("_", " ")));
  }
  function part(article, title, value) {
    if (value === null || value === undefined) return;
    const list = make("dl");
    for (const [name, text] of flat(value)) list.append(make("dt", name), make("dd", text));
    article.append(make("h4", title), list);
  }
  function show({ keys, more }, verdict) {
    const place = get("cell").querySelector("div");
    place.replaceChildren();
    if (verdict) place.append(make("p", verdict, "conclusion"));
    for (const key of keys.split(" ")) {
      const cell = details.cells[key];
      if (!cell) continue;
      const [dataset, model, defense, attack, access] = cell.title, article = make("article"), at = (index) => index === null ? null : details.shared[index];
      article.append(make("h3", `${defense} · ${attack}`), make("p", [access, cell.threat, dataset, model, `seed ${cell.seed}`].filter(Boolean).join(" · "), "sub"));
      if (cell.metrics) {
        const m = cell.metrics, share = m.accuracy_under_attack, known = share !== null, big = make("div", known ? `${percent(share)} % ` : "– ", "big");
        const what = cell.attack ? "accuracy under attack" : "clean accuracy";
        big.append(make("small", known ? `${what}, 95 % interval ${percent(m.ci_low)} to ${percent(m.ci_high)}, ${Math.round(share * m.n).toLocaleString("en")} of ${m.n.toLocaleString("en")} images` : `${what} is not known: outcomes were not kept`));
        article.append(big);
        if (cell.attack) article.append(make("p", `robust accuracy (right clean and under attack) ${percent(m.robust_accuracy)} %; clean ${percent(m.clean_accuracy)} %`, "sub"));
      }
      for (const flag of cell.flags) article.append(make("span", flag, "flag"));
      if (cell.error) article.append(make("h4", "failed"), make("div", `${cell.error.kind}: ${cell.error.message}`), make("pre", cell.error.traceback));
      if (cell.sample !== null) {
        const figure = make("figure", undefined, "samples"), image = make("img"), sample = at(cell.sample);
        const what = `clean above, attacked below; true classes from the left: ${sample.classes.join(" · ")}`;
        image.src = sample.url;
        image.alt = what;
        figure.append(image, make("figcaption", what));
        article.append(figure);
      }
      part(article, "attack", cell.attack);
      part(article, "distance", cell.metrics && { "mean L∞": cell.metrics.mean_linf, "mean L2": cell.metrics.mean_l2 });
      part(article, "cost of the attack, per image", cell.cost);
      part(article, "test-time step", at(cell.step));
      part(article, "network and weights", at(cell.defense));
      part(article, "cost of the defense", at(cell.own_cost));
      part(article, "images", at(cell.images));
      part(article, "measured", cell.measured);
      part(article, "made", at(cell.provenance));
      part(article, "key", { cell: key });
      place.append(article);
    }
    if (more) place.append(make("p", `and ${Number(more).toLocaleString("en")} more cells: leaderboard --format json has all`, "sub"));
    get("cell").showModal();
    get("cell").scrollTop = 0;
  }
  const open = (place) => show(place.dataset, place.closest("[data-kind=verdict]") && `${place.closest("tr").dataset.defense}: ${place.title}`);
  document.addEventListener("click", (event) => {
    const place = event.target.closest?.("[data-keys]");
    if (place) open(place);
    if (event.target === get("cell") || event.target.closest?.(".close")) get("cell").close();
  });
  document.addEventListener("keydown", (event) => {
    const place = event.target.closest?.("[data-keys]");
    if (place && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); open(place); }
  });
})();
