// Confusions: what is wrongly taken for the class, and what the class is taken for.
"use strict";
(() => {
  const { h, short, percent, range, count } = Lens;

  function confusion(atlas, one, other, { direction, onrow }) {
    const entry = atlas.classes[atlas.byLabel.get(other.label)];
    const share = other.share;
    return h(
      "li",
      { class: "confusion" },
      h(
        "div",
        {},
        h("strong", {}, short(other.name)),
        h(
          "p",
          { class: "soft" },
          direction === "in"
            ? `${count(share.number, "image")}, ${percent(share.value)} of those taken for ${short(one.name)} (${range(share, percent)})`
            : `${count(share.number, "image")}, ${percent(share.value)} of those that truly are ${short(one.name)} (${range(share, percent)})`,
        ),
      ),
      other.rows.length > 0 &&
        h(
          "div",
          { class: "tiles" },
          other.rows
            .slice(0, 12)
            .map((row) => h("button", { class: "tile-of", onclick: () => onrow(row) }, Lens.tile(one, row))),
        ),
      entry &&
        h("a", { class: "button", href: `#/${atlas.id}/compare/${one.id}/${atlas.id}/${entry.id}` }, "Side by side"),
    );
  }

  function errorsSection(atlas, one, { onrow }) {
    const wrong = one.taken_for.filter((other) => other.share.number > 0),
      mistaken = one.mistaken.filter((other) => other.share.number > 0);
    return Lens.section(
      "errors",
      "When it is wrong",
      wrong.length || mistaken.length
        ? "Choose an image to see what would have to go for another decision."
        : "No confusion is known: there were none, or the images have no true classes.",
      h(
        "div",
        { class: "two" },
        wrong.length > 0 &&
          h(
            "div",
            {},
            h("h3", {}, `Taken for ${short(one.name)}, but truly`),
            h(
              "ul",
              { class: "plain" },
              wrong.map((other) => confusion(atlas, one, other, { direction: "in", onrow })),
            ),
          ),
        mistaken.length > 0 &&
          h(
            "div",
            {},
            h("h3", {}, `Truly ${short(one.name)}, but taken for`),
            h(
              "ul",
              { class: "plain" },
              mistaken.map((other) => confusion(atlas, one, other, { direction: "out", onrow })),
            ),
          ),
      ),
    );
  }

  Object.assign(Lens, { errorsSection });
})();
