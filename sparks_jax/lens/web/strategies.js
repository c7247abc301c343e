// The images of a class in a plane: those recognised by the same concepts are near each other.
"use strict";
(() => {
  const { h, percent, range, badge, colour, count } = Lens;
  const MOST = 48; // pictures in the grid at once

  /** A small picture of an image, cut from the sheet. */
  function tile(one, row, size = 56) {
    const at = one.point("tile", row),
      sheet = one.sheet;
    const wrong = one.point("correct", row) === 0;
    const name = `${one.nameOf(row)}${wrong ? ", wrong" : ""}, mostly concept ${one.point("concept", row) + 1}`;
    const box = h("span", {
      class: `tile${wrong ? " wrong" : ""}`,
      role: "img",
      "aria-label": name,
      title: name,
      style: { width: `${size}px`, height: `${size}px`, "--tint": colour(one.point("concept", row)) },
    });
    if (sheet && at >= 0 && at < sheet.number) {
      const scale = size / sheet.tile;
      box.style.backgroundImage = `url("${one.place}${sheet.image.file}")`;
      box.style.backgroundSize = `${sheet.image.width * scale}px ${sheet.image.height * scale}px`;
      box.style.backgroundPosition = `${-(at % sheet.columns) * size}px ${-Math.floor(at / sheet.columns) * size}px`;
    } else box.textContent = String(one.point("concept", row) + 1);
    return box;
  }

  /** What a set of images has in common. */
  function summary(atlas, one, rows) {
    const known = rows.filter((row) => one.point("correct", row) >= 0),
      right = known.filter((row) => one.point("correct", row) === 1).length;
    const counts = new Map();
    for (const row of rows) {
      const k = one.point("concept", row);
      counts.set(k, (counts.get(k) ?? 0) + 1);
    }
    const main = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 3);
    return [
      h(
        "dl",
        { class: "pairs" },
        h("dt", {}, "Prevalence"),
        h("dd", {}, Lens.share(Lens.wilson(rows.length, one.n), "of the images")),
        h("dt", {}, "Reliability"),
        h("dd", {}, Lens.share(Lens.wilson(right, known.length), "are right")),
        h("dt", {}, "Main concepts"),
        h(
          "dd",
          {},
          main.map(([k, number]) => h("span", { class: "with" }, badge(k), ` ${percent(number / rows.length)} `)),
        ),
      ),
    ];
  }

  function strategiesSection(atlas, one, { chosen, first = null, onpick, onedit }) {
    const column = (name) => Float32Array.from({ length: one.n }, (_, row) => one.point(name, row));
    const points = { n: one.n, x: column("x"), y: column("y"), kind: column("concept") };
    const side = h("aside", { class: "side" });
    const filter = { concept: null, wrong: false, label: null };

    function list(rows, title) {
      const grid = h("div", { class: "tiles" });
      let shown = 0;
      const more = h("button", { class: "button more", onclick: () => add() }, "More");
      const add = () => {
        grid.append(
          ...rows
            .slice(shown, shown + MOST)
            .map((row) => h("button", { class: "tile-of", onclick: () => about(row) }, tile(one, row))),
        );
        shown += MOST;
        more.hidden = shown >= rows.length;
        Lens.roving(grid, "button", { columns: Lens.columnsOf(grid) });
      };
      side.replaceChildren(h("h3", {}, title), ...summary(atlas, one, rows), grid, more);
      add();
      Lens.say(`${title}: ${count(rows.length, "image")}`);
    }

    function about(row) {
      plane.lens.mark(row);
      const label = one.point("label", row);
      side.replaceChildren(
        h("h3", {}, one.nameOf(row)),
        tile(one, row, 132),
        h(
          "p",
          { class: one.point("correct", row) === 0 ? "wrong" : "soft" },
          label < 0
            ? "True class unknown"
            : one.point("correct", row) === 1
              ? "Right"
              : `Wrong: it is ${Lens.short(atlas.class_names[label])}`,
        ),
        Lens.guesses(one, one.topOf(row), 3),
        h("button", { class: "button", onclick: () => onedit(row) }, "Change its concepts"),
        h(
          "button",
          {
            class: "button",
            onclick: () => {
              plane.lens.select(null);
              everything();
            },
          },
          "All images",
        ),
      );
      Lens.say(`${one.nameOf(row)}, mostly concept ${one.point("concept", row) + 1}`);
    }

    const passes = (row) =>
      (filter.concept === null || one.point("concept", row) === filter.concept) &&
      (!filter.wrong || one.point("correct", row) === 0) &&
      (filter.label === null || one.point("label", row) === filter.label);
    const rowsNow = () => {
      const rows = [];
      for (let row = 0; row < one.n; row++) if (passes(row)) rows.push(row);
      return rows;
    };
    function everything() {
      const rows = rowsNow(),
        visible = new Uint8Array(one.n);
      for (const row of rows) visible[row] = 1;
      plane.lens.filter(rows.length === one.n ? null : visible);
      list(
        rows,
        filter.concept !== null
          ? `Mostly ${Lens.conceptName(atlas, one, filter.concept)}`
          : filter.wrong
            ? "Wrong images"
            : filter.label !== null
              ? `Truly ${Lens.short(atlas.class_names[filter.label])}`
              : "All images",
      );
    }
    const plane = Lens.scatter(points, {
      label: `${count(one.n, "image")} of ${Lens.short(one.name)} in a plane, those recognised by the same concepts together. Arrows move, plus and minus zoom; the groups are listed beside it.`,
      tip: (row) => tile(one, row, 96),
      onselect: (rows) => (rows ? list(rows, "Your selection") : everything()),
      onpick: about,
    });

    const chips = h(
      "div",
      { class: "legend", role: "group", "aria-label": "Show images whose main concept is" },
      one.concepts
        .map((concept, k) => [concept, k])
        .filter(([concept]) => concept.prevalence.number > 0)
        .map(([concept, k]) =>
          h(
            "button",
            {
              class: "chip",
              "aria-pressed": "false",
              data: { k },
              title: `Right in ${percent(concept.reliability.value)}`,
              onclick: (event) => toggle(event.currentTarget, "concept", k),
            },
            badge(k),
            ` ${percent(concept.prevalence.value)}`,
          ),
        ),
      h(
        "button",
        { class: "chip", "aria-pressed": "false", onclick: (event) => toggle(event.currentTarget, "wrong", true) },
        "only wrong ones",
      ),
      one.taken_for.map((other) =>
        h(
          "button",
          {
            class: "chip",
            "aria-pressed": "false",
            onclick: (event) => toggle(event.currentTarget, "label", other.label),
          },
          `truly ${Lens.short(other.name)}`,
        ),
      ),
    );
    function toggle(button, name, value) {
      const on = button.getAttribute("aria-pressed") !== "true";
      Object.assign(filter, { concept: null, wrong: false, label: null }, on ? { [name]: value } : {});
      for (const other of chips.querySelectorAll("button"))
        other.setAttribute("aria-pressed", String(on && other === button));
      plane.lens.select(null);
      everything();
    }

    const clusters = one.strategies.clusters.map((cluster, i) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            class: "cluster",
            onclick: () => {
              const rows = [];
              for (let row = 0; row < one.n; row++) if (one.point("cluster", row) === i) rows.push(row);
              plane.lens.select(rows);
              list(rows, `Strategy ${i + 1}`);
            },
          },
          h(
            "span",
            { class: "with" },
            h("strong", {}, `Strategy ${i + 1}`),
            cluster.concepts.map((k) => badge(k)),
            h("span", { class: "hide" }, `concepts ${cluster.concepts.map((k) => k + 1).join(", ")}`),
          ),
          h(
            "span",
            { class: "soft" },
            `${percent(cluster.prevalence.value)} of images, right in ${percent(cluster.reliability.value)}${cluster.reliability.value === null ? "" : ` (${range(cluster.reliability, percent)})`}`,
          ),
        ),
      ),
    );
    const section = Lens.section(
      "strategies",
      "How it recognises them",
      `${count(one.n, "image")}, placed by what each concept adds (${one.strategies.embedding}). Draw a loop around some, or choose a group.`,
      chips,
      Lens.planeTools(plane),
      h(
        "div",
        { class: "split" },
        h("div", {}, plane, clusters.length > 0 && h("ul", { class: "clusters" }, clusters)),
        side,
      ),
    );
    everything();
    if (first !== null && first < one.n) requestAnimationFrame(() => about(first));
    section.lens = { plane, about };
    return section;
  }

  Object.assign(Lens, { strategiesSection, tile });
})();
