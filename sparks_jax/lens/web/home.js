// The index of an atlas: what it is about, and a card for each class.
"use strict";
(() => {
  const { h, short, percent, count } = Lens;
  const ORDERS = {
    number: ["by number", (a, b) => a.label - b.label],
    name: ["by name", (a, b) => a.name.localeCompare(b.name)],
    wrong: ["least right first", (a, b) => (a.precision ?? 2) - (b.precision ?? 2)],
    one: ["one concept decides", (a, b) => (b.shares[0] ?? 0) - (a.shares[0] ?? 0)],
    many: [
      "many concepts decide",
      (a, b) => b.num_important - a.num_important || (a.shares[0] ?? 0) - (b.shares[0] ?? 0),
    ],
    images: ["most images", (a, b) => b.num_images - a.num_images],
  };
  const PAGE = 60; // cards that are added at once while scrolling

  /** The first shares as one line of colours: how many concepts a class needs, at a glance. */
  function stripe(shares) {
    const kept = shares.map((share) => Math.max(0, share)),
      sum = Math.max(
        1,
        kept.reduce((a, b) => a + b, 0),
      );
    return h(
      "span",
      { class: "stripe", "aria-hidden": "true" },
      kept.map((share, k) => h("span", { style: { width: `${(100 * share) / sum}%`, background: Lens.colour(k) } })),
    );
  }

  const card = (atlas, one) =>
    h(
      "a",
      { class: "card", href: `#/${atlas.id}/${one.id}` },
      one.cover
        ? h("img", {
            src: atlas.place + one.cover,
            alt: "",
            loading: "lazy",
            decoding: "async",
            width: 160,
            height: 160,
          })
        : h("span", { class: "blank" }),
      h("span", { class: "name" }, short(one.name)),
      stripe(one.shares),
      h(
        "span",
        { class: "soft" },
        `${one.num_important === 0 ? "no main concept" : count(one.num_important, "main concept")}${one.precision === null ? "" : `, ${percent(one.precision)} right`}`,
      ),
    );

  function homePage(atlas, order = "number") {
    const grid = h("div", { class: "cards", role: "list" });
    let sorted = [],
      shown = 0;
    const more = () => {
      grid.append(...sorted.slice(shown, shown + PAGE).map((one) => h("div", { role: "listitem" }, card(atlas, one))));
      shown += PAGE;
      end.hidden = shown >= sorted.length;
    };
    const end = h("button", { class: "button more", onclick: more }, "More classes");
    const sort = (by) => {
      sorted = [...atlas.classes].sort(ORDERS[by][1]);
      shown = 0;
      grid.replaceChildren();
      more();
    };
    new IntersectionObserver(
      (seen) => {
        if (seen[0].isIntersecting && !end.hidden) more();
      },
      { rootMargin: "600px" },
    ).observe(end);
    sort(order in ORDERS ? order : "number");
    const { model, data } = atlas;
    const right = data.accuracy.value === null ? "" : ` It is right in ${percent(data.accuracy.value)} of them.`;
    return Lens.page(
      atlas.title,
      {
        kind: "home",
        within: "Atlas",
        lead: `What ${model.name} uses to recognise ${count(atlas.classes.length, "class", "classes")}, from ${count(data.num_images, "image")} of ${data.name}.${right}`,
      },
      !atlas.finished &&
        h(
          "p",
          { class: "note", role: "status" },
          `This atlas is being built: ${atlas.classes.length} of ${atlas.class_names.length} classes so far. More appear here as they are done.`,
        ),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button first", href: `#/${atlas.id}/map` }, "Map of all concepts"),
        Lens.isLive(atlas) && h("a", { class: "button", href: `#/${atlas.id}/photo` }, "Your photograph"),
        h("button", { class: "button", onclick: () => Lens.random(atlas) }, "A class at random"),
        h(
          "label",
          { class: "order" },
          "Sort ",
          h(
            "select",
            { onchange: (event) => sort(event.target.value) },
            Object.entries(ORDERS).map(([id, [text]]) => h("option", { value: id, selected: id === order }, text)),
          ),
        ),
      ),
      grid,
      end,
      h(
        "details",
        { class: "about" },
        h("summary", {}, "About this atlas"),
        h(
          "dl",
          {},
          [
            ["About", atlas.about],
            ["Model", `${model.name}: ${model.about}`],
            [
              "Layer",
              `${model.layer}, ${model.affine_head ? "after which the network is affine: what concepts add is exact" : "after which the network is not affine: what concepts add is to first order"}`,
            ],
            ["Images", `${data.name}: ${data.about}`],
            ["Intervals", `${percent(atlas.level)} confidence`],
            ["Fingerprint", atlas.fingerprint],
            ...Object.entries(atlas.settings).map(([name, value]) => [name.replaceAll("_", " "), String(value)]),
          ]
            .filter(([, text]) => text)
            .map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]),
        ),
      ),
    );
  }

  const lensPage = (lens) =>
    Lens.page(
      "What a model uses to see",
      { lead: "Each atlas is one network and the concepts that it recognises its classes by." },
      h(
        "div",
        { class: "atlases" },
        lens.atlases.map((one) =>
          h(
            "a",
            { class: "card wide", href: `#/${one.id}` },
            h("span", { class: "name" }, one.title),
            h("span", { class: "soft" }, `${count(one.num_classes, "class", "classes")}. ${one.about}`),
          ),
        ),
      ),
    );

  Object.assign(Lens, { homePage, lensPage });
})();
