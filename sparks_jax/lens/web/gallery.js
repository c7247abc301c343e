// The concepts of a class: what each looks like to the network, first; then the numbers.
"use strict";
(() => {
  const { h, s, number, signed, percent, range, badge, colour, short } = Lens;

  /** The picture of a concept, made from noise; where there is none, the crop that has most of it. */
  function conceptImage(one, k, size = "") {
    const concept = one.concepts[k];
    const image = concept.picture?.image ?? concept.crops[0]?.image;
    if (!image)
      return h("span", { class: `blank ${size}`, role: "img", "aria-label": `Concept ${k + 1} is in no image` });
    const what = concept.picture
      ? `what the network looks for, made from noise with ${concept.picture.method}`
      : "the part of an image that has most of it";
    return Lens.picture(one.place, image, `Concept ${k + 1}, ${percent(concept.share)}: ${what}`, {
      class: `made ${size}`,
    });
  }

  function gallery(atlas, one, { chosen, onpick }) {
    const list = h(
      "div",
      { class: "gallery", role: "tablist", "aria-label": "Concepts, those that matter most first" },
      one.concepts.map((concept, k) =>
        h(
          "button",
          {
            class: `concept${concept.important ? "" : " minor"}${concept.dead ? " dead" : ""}`,
            role: "tab",
            id: `concept-${k}`,
            "aria-controls": "concept",
            "aria-selected": String(k === chosen),
            "aria-label": `${Lens.conceptName(atlas, one, k)}, ${percent(concept.share)} of what concepts add${concept.important ? "" : ", minor"}`,
            style: { "--tint": colour(k) },
            data: { k },
            onclick: () => onpick(k),
          },
          conceptImage(one, k),
          Lens.caption(
            k,
            h(
              "span",
              { class: `label${/^Concept \d+$/.test(Lens.conceptName(atlas, one, k)) ? " plain-name" : ""}` },
              Lens.conceptName(atlas, one, k),
            ),
            concept.share,
          ),
        ),
      ),
    );
    Lens.roving(list, "button", { columns: Lens.columnsOf(list), onmove: onpick });
    return list;
  }

  /** A crop; hovering or focusing it shows where it was cut from. */
  const crop = (one, piece, k) =>
    h(
      "figure",
      { class: "crop" },
      Lens.picture(one.place, piece.image, `Part of ${one.nameOf(piece.row)} with much of concept ${k + 1}`),
      s(
        "svg",
        { viewBox: "0 0 20 20", class: "from", "aria-hidden": "true" },
        s("rect", { x: 0.5, y: 0.5, width: 19, height: 19, class: "frame" }),
        s("rect", { x: 20 * piece.box[1], y: 20 * piece.box[0], width: 20 * piece.box[3], height: 20 * piece.box[2] }),
      ),
    );

  const fact = (value, text, more = "") =>
    h("div", { class: "fact" }, h("strong", {}, value), h("span", {}, text), more && h("small", {}, more));

  /** All about one concept. */
  function conceptPanel(atlas, one, k, concepts, onchange) {
    const concept = one.concepts[k],
      { importance, prevalence, reliability } = concept;
    const row = concepts?.rowOf(atlas.byLabel.get(one.label), k);
    const like = row === undefined ? [] : concepts.similarTo(row);
    const note = Lens.noteOf(atlas, one, k);
    return h(
      "div",
      {
        class: "panel",
        role: "tabpanel",
        id: "concept",
        tabindex: "0",
        "aria-labelledby": `concept-${k}`,
        style: { "--tint": colour(k) },
      },
      h(
        "div",
        { class: "look" },
        conceptImage(one, k, "big"),
        concept.picture && h("p", { class: "small" }, `${concept.picture.method}, ${concept.picture.steps} steps`),
        Lens.isLive(atlas) && Lens.visualizer(atlas, one, k),
      ),
      h(
        "div",
        { class: "tell" },
        h(
          "h3",
          {},
          badge(k),
          " ",
          Lens.conceptName(atlas, one, k),
          note.tag && h("span", { class: `tag ${note.tag}` }, note.tag),
        ),
        concept.dead &&
          h("p", { class: "note" }, "No view has any of this concept: it is a spare one of the factorization."),
        h(
          "div",
          { class: "facts" },
          fact(
            percent(concept.share),
            "of what concepts add",
            `adds ${signed(importance.value)} (${range(importance, signed)})`,
          ),
          fact(percent(prevalence.value), "of images: the main concept", range(prevalence, percent)),
          fact(
            reliability.value === null ? "–" : percent(reliability.value),
            "of those are right",
            reliability.value === null ? "true classes unknown, or none" : range(reliability, percent),
          ),
          concept.stability !== null && fact(number(concept.stability, 2), "found again with another seed", "cosine"),
          concept.sobol && fact(number(concept.sobol.value, 2), "total Sobol’ index", range(concept.sobol)),
          fact(percent(concept.energy), "of the activations’ energy"),
        ),
        h("h4", {}, "Where there is most of it"),
        concept.crops.length
          ? h(
              "div",
              { class: "crops" },
              concept.crops.map((piece) => crop(one, piece, k)),
            )
          : h("p", { class: "soft" }, "Nowhere."),
        concept.known.length > 0 && [
          h("h4", {}, "What it lies on"),
          h(
            "ul",
            { class: "plain" },
            concept.known.map((one_) =>
              h("li", {}, `${percent(one_.share.value)} of its maps on ${one_.name} (${range(one_.share, percent)})`),
            ),
          ),
        ],
        concept.parts && [
          h("h4", {}, `Made of, at ${concept.parts.layer}`),
          h(
            "div",
            { class: "parts" },
            concept.parts.concepts.map((part, i) =>
              h(
                "div",
                { class: "part-of" },
                h(
                  "p",
                  {},
                  h("strong", {}, `${k + 1}.${i + 1}`),
                  ` adds ${signed(part.importance.value)}, ${percent(part.energy)} of energy`,
                ),
                h(
                  "div",
                  { class: "crops few" },
                  part.crops.slice(0, 4).map((piece) => crop(one, piece, k)),
                ),
              ),
            ),
          ),
        ],
      ),
      h(
        "div",
        { class: "links" },
        concept.alignment.length > 0 && [
          h("h4", {}, "Points to"),
          h(
            "ol",
            { class: "aligned" },
            concept.alignment.map((to) => {
              const entry = atlas.classes[atlas.byLabel.get(to.label)];
              const name = short(to.name);
              return h(
                "li",
                {},
                h("span", {
                  class: "meter",
                  style: { width: `${100 * Math.max(0, to.cosine)}%` },
                  "aria-hidden": "true",
                }),
                entry && entry.label !== one.label
                  ? h("a", { href: `#/${atlas.id}/${entry.id}` }, name)
                  : h("span", { class: to.label === one.label ? "own" : "" }, name),
                h("span", { class: "value" }, number(to.cosine, 2)),
              );
            }),
          ),
        ],
        like.length > 0 && [
          h("h4", {}, "Like it in other classes"),
          h(
            "ul",
            { class: "alike" },
            like.map((other) => {
              const entry = atlas.classes[concepts.get(other.row, 0)],
                number_ = concepts.get(other.row, 1);
              return h(
                "li",
                {},
                h(
                  "a",
                  { href: `#/${atlas.id}/${entry.id}/concepts/${number_}` },
                  `${short(entry.name)}, concept ${number_ + 1}`,
                ),
                h("span", { class: "value" }, number(other.cosine, 2)),
              );
            }),
          ),
          h("p", { class: "small" }, h("a", { href: `#/${atlas.id}/map/${row}` }, "On the map of all concepts")),
        ],
        h(
          "details",
          { class: "notes-of", open: Boolean(note.text || note.name) },
          h("summary", {}, "Name it, tag it, note"),
          Lens.noteForm(atlas, one, k, onchange),
        ),
      ),
    );
  }

  Object.assign(Lens, { conceptImage, gallery, conceptPanel });
})();
