// The map of all concepts of all classes: near ones point in like directions, whatever class they are of.
"use strict";
(() => {
  const { h, short, percent } = Lens;

  function mapPage(atlas, concepts, wanted) {
    if (!concepts)
      return Lens.page("Map of all concepts", {
        lead: "The map needs all classes, and is drawn when the atlas is finished.",
      });
    const { n, get } = concepts;
    const column = (c) => Float32Array.from({ length: n }, (_, row) => get(row, c));
    const kind = column(1);
    const classOf = (row) => atlas.classes[get(row, 0)];
    const nameOf = (row) => `${short(classOf(row).name)}, concept ${get(row, 1) + 1}`;
    const side = h("aside", { class: "side", "aria-live": "polite" });
    let asked = -1;

    const about = async (row) => {
      const entry = classOf(row);
      asked = row;
      side.replaceChildren(
        h("h2", {}, nameOf(row)),
        h("p", { class: "soft" }, `${percent(get(row, 4))} of what concepts add`),
        h("div", { class: "wait" }),
      );
      const one = await Lens.readClass(atlas, entry);
      if (asked !== row) return; // another point was chosen meanwhile
      const like = concepts.similarTo(row);
      side.replaceChildren(
        h("h2", {}, short(entry.name), ": ", Lens.conceptName(atlas, one, get(row, 1))),
        Lens.conceptImage(one, get(row, 1), "big"),
        h("p", { class: "soft" }, `${percent(get(row, 4))} of what the concepts of its class add.`),
        h("a", { class: "button", href: `#/${atlas.id}/${entry.id}/concepts/${get(row, 1)}` }, "Open this concept"),
        like.length > 0 && h("h3", {}, "Like it in other classes"),
        h(
          "ul",
          { class: "plain" },
          like.map((other) =>
            h(
              "li",
              {},
              h(
                "button",
                {
                  class: "link",
                  onclick: () => {
                    plane.lens.mark(other.row);
                    about(other.row);
                  },
                },
                nameOf(other.row),
              ),
              h("span", { class: "soft" }, ` cosine ${Lens.number(other.cosine)}`),
            ),
          ),
        ),
      );
    };
    const plane = Lens.scatter(
      { n, x: column(2), y: column(3), kind },
      {
        label: `${n} concepts of ${atlas.classes.length} classes in a plane; the list of classes below has them all`,
        tip: nameOf,
        onselect: (rows) => {
          if (!rows) return;
          asked = -1;
          side.replaceChildren(
            h("h2", {}, Lens.count(rows.length, "concept")),
            h(
              "ul",
              { class: "plain" },
              rows
                .slice(0, 60)
                .map((row) => h("li", {}, h("button", { class: "link", onclick: () => about(row) }, nameOf(row)))),
            ),
          );
        },
        onpick: about,
        height: 640,
      },
    );
    if (wanted >= 0 && wanted < n) {
      about(wanted);
      requestAnimationFrame(() => plane.lens.mark(wanted));
    } else
      side.append(
        h("h2", {}, "Choose a point"),
        h(
          "p",
          { class: "soft" },
          "Each point is a concept of a class. Colour and shape are its rank there: the first is what the class is recognised by most. Click one, or draw a loop around several.",
        ),
      );
    const page = Lens.page(
      "Map of all concepts",
      {
        within: Lens.link(atlas),
        lead: "Near points are directions that are alike: a concept that several classes share lies between them.",
      },
      Lens.planeTools(plane),
      h("div", { class: "split" }, plane, side),
    );
    page.lens = { release: plane.lens.release };
    return page;
  }

  /** Buttons of a plane, for those who have no wheel. */
  function planeTools(plane, extra = []) {
    const lasso = h("button", { class: "tool", "aria-pressed": "false", onclick: () => mode("lasso") }, "Select");
    const move = h("button", { class: "tool", "aria-pressed": "false", onclick: () => mode("move") }, "Move");
    const mode = (to) => {
      plane.lens.mode(to);
      lasso.setAttribute("aria-pressed", String(to === "lasso"));
      move.setAttribute("aria-pressed", String(to === "move"));
    };
    mode(window.matchMedia("(pointer: coarse)").matches ? "browse" : "lasso");
    return h(
      "div",
      { class: "tools", role: "group", "aria-label": "Plane" },
      lasso,
      move,
      h("button", { class: "tool", "aria-label": "Zoom in", onclick: () => plane.lens.zoom(1.4) }, "+"),
      h("button", { class: "tool", "aria-label": "Zoom out", onclick: () => plane.lens.zoom(1 / 1.4) }, "−"),
      h("button", { class: "tool", onclick: () => plane.lens.reset() }, "All"),
      extra,
    );
  }

  Object.assign(Lens, { mapPage, planeTools });
})();
