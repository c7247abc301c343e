// What if a concept were absent: sliders, logits that follow, and the smallest change that turns the decision.
"use strict";
(() => {
  const { h, number, signed, percent, badge, short } = Lens;

  const EXACT = "Exact: the rest of the network is affine.";

  /** Sliders for one image. logitsOf(removed) → logits of the rivals, now or as a promise. */
  function editor(atlas, one, { row, title, logitsOf, importances, present, how }) {
    const removed = new Array(one.k).fill(0);
    const before = one.rivals.map((_, j) => logitsOf.before[j]);
    const lines = h("ul", { class: "logits", "aria-live": "off" }),
      verdict = h("p", { class: "verdict", role: "status" });
    let asked = 0;

    function draw(after) {
      const low = Math.min(0, ...before, ...after),
        high = Math.max(...before, ...after, low + 1e-6),
        at = (v) => `${(100 * (v - low)) / (high - low)}%`;
      const best = after.indexOf(Math.max(...after));
      const chance = Lens.softmax(after);
      lines.replaceChildren(
        ...one.rivals.map((rival, j) =>
          h(
            "li",
            { class: j === best ? "best" : "" },
            h("span", { class: "label" }, short(rival.name)),
            h(
              "span",
              { class: "track", "aria-hidden": "true" },
              h("span", { class: "fill", style: { width: at(after[j]) } }),
              h("span", { class: "was", style: { left: at(before[j]) } }),
            ),
            h("span", { class: "value" }, number(after[j])),
            h("span", { class: "value soft" }, percent(chance[j])),
          ),
        ),
      );
      verdict.textContent = best === 0 ? `Still ${short(one.name)}.` : `Now ${short(one.rivals[best].name)}.`;
      verdict.classList.toggle("turned", best !== 0);
    }
    async function update() {
      const mine = ++asked,
        after = await logitsOf(removed);
      if (mine === asked) draw(after);
    }
    const order = importances
      .map((_, k) => k)
      .filter((k) => present[k] > 0)
      .sort((a, b) => importances[b] - importances[a]);
    const sliders = h(
      "ul",
      { class: "sliders" },
      order.map((k) => {
        const out = h("output", {}, "100 %");
        const input = h("input", {
          type: "range",
          min: 0,
          max: 100,
          step: 1,
          value: 100,
          "aria-label": `How much of ${Lens.conceptName(atlas, one, k)} stays`,
          data: { k },
          oninput: () => {
            removed[k] = 1 - input.value / 100;
            out.textContent = `${input.value} %`;
            update();
          },
        });
        return h(
          "li",
          {},
          badge(k),
          h("span", { class: "label" }, Lens.conceptName(atlas, one, k)),
          input,
          out,
          h("span", { class: "value soft" }, signed(importances[k])),
        );
      }),
    );
    function set(values) {
      values.forEach((value, k) => {
        removed[k] = value;
      });
      for (const input of sliders.querySelectorAll("input")) {
        input.value = Math.round(100 * (1 - values[input.dataset.k]));
        input.nextElementSibling.textContent = `${input.value} %`;
      }
      update();
    }
    const flip = (j) => {
      const found = Lens.smallestEdit(logitsOf.linear, logitsOf.row, j);
      if (!found) {
        Lens.say(`Without any of these concepts it would still not be ${short(one.rivals[j].name)}.`);
        verdict.textContent = `No removal makes it ${short(one.rivals[j].name)}.`;
        return;
      }
      set(found.removed);
      Lens.say(
        `Smallest removal: ${found.removed
          .map((v, k) => (v > 0 ? `${percent(v)} of concept ${k + 1}` : ""))
          .filter(Boolean)
          .join(", ")}`,
      );
    };
    const path = Lens.deletion(logitsOf.linear, logitsOf.row);
    draw(before);
    return h(
      "div",
      { class: "editor" },
      h(
        "div",
        {},
        h("h3", {}, title),
        h("p", { class: "small" }, how),
        sliders,
        h(
          "div",
          { class: "actions" },
          h("button", { class: "button", onclick: () => set(removed.map(() => 0)) }, "All back"),
          h("button", { class: "button", onclick: () => set(removed.map(() => 1)) }, "None at all"),
        ),
      ),
      h(
        "div",
        {},
        h("h4", {}, "Logits, and shares among these classes"),
        lines,
        verdict,
        one.rivals.length > 1 &&
          h(
            "p",
            { class: "flips" },
            "Smallest removal that makes it: ",
            one.rivals
              .slice(1)
              .map((rival, j) => h("button", { class: "chip", onclick: () => flip(j + 1) }, short(rival.name))),
          ),
        h("h4", {}, "While concepts go, the strongest first"),
        Lens.curve(path.values, {
          title: "Logit while concepts are removed",
          ends: ["all", "none"],
          marks: path.order,
        }),
      ),
    );
  }

  /** The section: for an image of the class. */
  function editSection(atlas, one, first = 0) {
    const holder = h("div", {});
    const options = [
      ...new Set([
        ...one.exhibits.map((exhibit) => exhibit.row),
        ...one.taken_for.flatMap((other) => other.rows.slice(0, 4)),
        ...Array.from({ length: Math.min(40, one.n) }, (_, i) => Math.floor((i * one.n) / Math.min(40, one.n))),
      ]),
    ];
    const choose = h("select", { "aria-label": "Image", onchange: () => show(Number(choose.value)) });
    function show(row) {
      if (!(row >= 0 && row < one.n)) row = 0;
      if (!options.includes(row)) options.unshift(row);
      choose.replaceChildren(
        ...options.map((to) =>
          h(
            "option",
            { value: to, selected: to === row },
            `${one.nameOf(to)}${one.point("correct", to) === 0 ? " (wrong)" : ""}`,
          ),
        ),
      );
      const logitsOf = Object.assign((removed) => Lens.logitsWithout(one, row, removed), {
        before: one.rivals.map((_, j) => one.logitOf(row, j)),
        linear: one,
        row,
      });
      holder.replaceChildren(
        h("div", { class: "with" }, Lens.tile(one, row, 72)),
        editor(atlas, one, {
          row,
          title: one.nameOf(row),
          logitsOf,
          how: one.importance.exact ? EXACT : "To first order: the rest of the network is not affine.",
          importances: Array.from({ length: one.k }, (_, k) => one.importanceOf(row, k)),
          present: Array.from({ length: one.k }, (_, k) => one.amountOf(row, k)),
        }),
      );
    }
    const section = Lens.section(
      "edit",
      "What if a concept were absent",
      "Take concepts away from an image, and watch the decision.",
      h("label", { class: "order" }, "Image ", choose),
      holder,
    );
    if (one.n) show(first);
    section.lens = { show };
    return section;
  }

  Object.assign(Lens, { editor, editSection, EXACT });
})();
