// Two classes beside each other: of one atlas, or the same class of two models.
"use strict";
(() => {
  const { h, short, percent, colour, signed } = Lens;

  const column = (atlas, one) =>
    h(
      "section",
      { class: "column", "aria-label": `${short(one.name)}, ${atlas.model.name}` },
      h("h2", {}, h("a", { href: `#/${atlas.id}/${one.id}` }, short(one.name))),
      h(
        "p",
        { class: "soft" },
        `${atlas.model.name}, ${atlas.data.name}. ${Lens.count(one.n, "image")}, right in ${percent(one.precision.value)}.`,
      ),
      h(
        "ol",
        { class: "columns" },
        one.concepts.map((concept, k) =>
          h(
            "li",
            {},
            h(
              "a",
              { href: `#/${atlas.id}/${one.id}/concepts/${k}`, style: { "--tint": colour(k) } },
              Lens.conceptImage(one, k),
              Lens.caption(k, h("span", { class: "label" }, Lens.conceptName(atlas, one, k)), concept.share),
              h("span", {
                class: "meter",
                "aria-hidden": "true",
                style: { width: `${100 * Math.max(0, Math.min(1, concept.share))}%` },
              }),
              h("span", { class: "small" }, `adds ${signed(concept.importance.value)}`),
            ),
          ),
        ),
      ),
    );

  async function comparePage(lens, atlas, [id, other, otherId]) {
    const second = await Lens.readAtlas(other);
    const entry = (where, name) => {
      const found = where.classes.find((one) => one.id === name);
      if (!found) throw new Error(`There is no class ${name} in ${where.title}.`);
      return found;
    };
    const [a, b] = await Promise.all([
      Lens.readClass(atlas, entry(atlas, id)),
      Lens.readClass(second, entry(second, otherId ?? id)),
    ]);
    const go = (name, to) => {
      location.hash = `#/${atlas.id}/compare/${id}/${name}/${to}`;
    };
    const pick = h(
      "select",
      {
        "aria-label": "Second atlas",
        onchange: async () => {
          const to = await Lens.readAtlas(pick.value);
          go(
            to.id,
            (
              to.classes.find((one) => one.name === a.name) ??
              to.classes.find((one) => one.label === a.label) ??
              to.classes[0]
            ).id,
          );
        },
      },
      lens.atlases.map((one) => h("option", { value: one.id, selected: one.id === other }, one.title)),
    );
    const pickClass = h(
      "select",
      { "aria-label": "Second class", onchange: () => go(other, pickClass.value) },
      second.classes.map((one) => h("option", { value: one.id, selected: one.id === b.id }, short(one.name))),
    );
    return Lens.page(
      "Side by side",
      {
        within: h("a", { href: `#/${atlas.id}/${a.id}` }, short(a.name)),
        lead:
          atlas.id === second.id
            ? "What two classes are recognised by: where they are confused, their concepts are alike."
            : "What two models recognise the class by.",
      },
      h(
        "div",
        { class: "actions" },
        h("label", { class: "order" }, "Against ", pick),
        h("label", { class: "order" }, "class ", pickClass),
      ),
      h("div", { class: "compare" }, column(atlas, a), column(second, b)),
    );
  }

  Object.assign(Lens, { comparePage });
})();
