"use strict";
(() => {
{% include "page.js" %}

  const data = JSON.parse(get("data").textContent);

  const filter = () => {
    const words = get("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let any = false;
    for (const group of all(".group")) {
      let inGroup = false;
      for (const row of all(".row", group)) {
        let inRow = false;
        for (const figure of all("figure", row)) {
          const text = `${row.dataset.row} ${figure.dataset.name}`.toLowerCase();
          const shown = words.every((word) => text.includes(word)) && (!get("changed").checked || "changed" in figure.dataset);
          figure.hidden = !shown;
          inRow ||= shown;
        }
        row.hidden = !inRow;
        inGroup ||= inRow;
      }
      group.hidden = !inGroup;
      any ||= inGroup;
    }
    // The list shows the changes of the lines that are shown.
    for (const article of all("#changes article")) {
      for (const change of all("li", article)) change.hidden = get(`line-${change.dataset.line}`).hidden;
      article.hidden = all("li", article).every((change) => change.hidden);
    }
    for (const list of all("#changes")) list.hidden = all("article", list).every((article) => article.hidden);
    for (const older of all("#older")) older.hidden = words.length > 0;
    get("nothing").hidden = any;
  };
  // An address, or the way back, may lead to a line that the filters hide.
  const reveal = () => {
    const aim = location.hash && get(location.hash.slice(1));
    if (!aim?.closest("figure")?.hidden) return;
    get("search").value = "";
    get("changed").checked = false;
    filter();
    aim.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  get("search").addEventListener("input", filter);
  get("changed").addEventListener("change", filter);

  // Below a picture: what was measured nearest to the pointer. The interval is Wilson's, as in the tables.
  const wilson = (right, n) => {
    const z = 1.959963984540054, z2 = z * z, share = right / n;
    const centre = (share + z2 / (2 * n)) / (1 + z2 / n);
    const half = (z / (1 + z2 / n)) * Math.sqrt((share * (1 - share)) / n + z2 / (4 * n * n));
    return [Math.max(0, centre - half), Math.min(1, centre + half)].map((end) => (100 * end).toFixed(1));
  };
  const nearest = (at, place) => {
    let low = 0, high = at.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (at[middle] < place) low = middle + 1; else high = middle; }
    return low > 0 && place - at[low - 1] < at[low] - place ? low - 1 : low;
  };
  const read = (plot, event) => {
    const box = plot.getBoundingClientRect(), count = data.places.length;
    const place = ((event.clientX - box.left) / box.width) * count - 0.5;
    const figure = plot.closest("figure"), end = (name) => Number(figure.querySelector(name).textContent);
    const level = end(".high") - ((event.clientY - box.top) / box.height) * (end(".high") - end(".low"));
    let best = null;
    for (const lane of data.lines[plot.dataset.line]) {
      if (!lane.at.length) continue;
      const i = nearest(lane.at, place), gap = Math.abs(lane.at[i] - place);
      // Of two machines at one commit it is the one whose accuracy is nearer.
      const off = Math.abs((100 * lane.right[i]) / lane.n - level);
      if (!best || gap < best.gap || (gap === best.gap && off < best.off)) best = { gap, off, lane, i };
    }
    if (!best) return;
    const { lane, i } = best, right = lane.right[i], [low, high] = wilson(right, lane.n), [label, day] = data.places[lane.at[i]];
    figure.classList.add("reading");
    figure.querySelector("output").textContent = `${label} ${day}: ${(100 * right / lane.n).toFixed(2)} % (${low} to ${high}), ${right} of ${lane.n}; ${lane.about}`;
    let cursor = plot.querySelector(".cursor");
    if (!cursor) { cursor = document.createElement("i"); cursor.className = "cursor"; plot.append(cursor); }
    cursor.style.left = `${(100 * (lane.at[i] + 0.5)) / count}%`;
  };
  for (const plot of all(".plot")) {
    plot.addEventListener("pointermove", (event) => read(plot, event));
    plot.addEventListener("pointerdown", (event) => read(plot, event));
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "touch") return;
      const figure = plot.closest("figure");
      figure.classList.remove("reading");
      figure.querySelector("output").textContent = "";
      plot.querySelector(".cursor")?.remove();
    });
  }
})();
