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
        `${atlas.model.name}, ${atlas.data.name}. ${Lens.count(one.n, "image")}`,
        one.precision.value === null ? "." : `, right in ${percent(one.precision.value)}.`,
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

  /** The class of an atlas that is this one: of the same name, or of the same number. */
  const same = (where, one) =>
    where.classes.find((other) => other.name === one.name) ?? where.classes.find((other) => other.label === one.label);

  /** What a class is put beside if nobody says: itself in another atlas, or the next class of its own. */
  async function rival(lens, atlas, one) {
    for (const { id } of lens.atlases.filter((other) => other.id !== atlas.id)) {
      const found = (await Lens.readAtlas(id)).classes.find((other) => other.name === one.name);
      if (found) return [id, found.id];
    }
    return [atlas.id, atlas.classes[(atlas.classes.indexOf(one) + 1) % atlas.classes.length].id];
  }

  async function comparePage(lens, atlas, [id, other, otherId]) {
    const entry = (where, name) => {
      const found = where.classes.find((one) => one.id === name);
      if (!found) throw new Error(`There is no class ${name} in ${where.title}.`);
      return found;
    };
    const first = id === undefined ? atlas.classes[0] : entry(atlas, id);
    if (other === undefined) [other, otherId] = await rival(lens, atlas, first);
    const second = await Lens.readAtlas(other);
    const [a, b] = await Promise.all([
      Lens.readClass(atlas, first),
      Lens.readClass(second, entry(second, otherId ?? first.id)),
    ]);
    const go = (name, to) => {
      location.hash = `#/${atlas.id}/compare/${first.id}/${name}/${to}`;
    };
    const pick = h(
      "select",
      {
        "aria-label": "Second atlas",
        onchange: async () => {
          const to = await Lens.readAtlas(pick.value);
          go(to.id, (same(to, a) ?? to.classes[0]).id);
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
