// One image: what the network says, where each concept is, and its bars beside those of the class.
"use strict";
(() => {
  const { h, number, signed, percent, badge, colour, palette } = Lens;

  /** A map as a veil of the colour of its concept: clear at 0, full at the largest value. */
  function veil({ values, height, width }, k, most) {
    const canvas = h("canvas", { class: "veil", width, height, "aria-hidden": "true" });
    const context = canvas.getContext("2d"),
      image = context.createImageData(width, height),
      rgb = palette().veil(k);
    values.forEach((value, i) => {
      image.data.set(rgb, 4 * i);
      image.data[4 * i + 3] = most > 0 ? 235 * Math.pow(Math.min(1, Math.max(0, value / most)), 0.8) : 0;
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  const largest = (map) => map.values.reduce((a, b) => Math.max(a, b), 0);

  /** Where a map is largest, in words. */
  function whereabouts({ values, height, width }) {
    let best = 0;
    values.forEach((value, i) => {
      if (value > values[best]) best = i;
    });
    if (!(values[best] > 0)) return "nowhere";
    const third = (i, n, words) => words[Math.min(2, Math.floor((3 * (i + 0.5)) / n))];
    const [y, x] = [
      third(Math.floor(best / width), height, ["top", "middle", "bottom"]),
      third(best % width, width, ["left", "centre", "right"]),
    ];
    return y === "middle" && x === "centre" ? "in the centre" : `at the ${y} ${x}`;
  }

  /** What an exhibit of a class has to tell. */
  function exhibitOf(atlas, one, i) {
    const { row, image } = one.exhibits[i];
    const label = one.point("label", row);
    return {
      title: one.nameOf(row),
      row,
      src: one.place + image.file,
      size: [image.width, image.height],
      top: one.topOf(row),
      truth: label >= 0 ? atlas.class_names[label] : null,
      correct: one.point("correct", row),
      score: one.logitOf(row, 0),
      explained: one.point("explained", row),
      importances: Array.from({ length: one.k }, (_, k) => one.importanceOf(row, k)),
      map: (kind, k) => one.map(kind, i, k),
      blackBox: one.black_box,
    };
  }

  const KINDS = {
    where_codes: ["where it is computed", "codes of the layer’s positions"],
    where_gradient: ["what moves it", "implicit differentiation to the pixels"],
  };
  const METHODS = { sobol: "Sobol’ indices", rise: "RISE", occlusion: "occlusion" };

  /** The kinds of maps that there are of an image: those of a method that hides parts of it only where it was built. */
  function kindsOf({ blackBox: by }) {
    if (!by) return KINDS;
    const title = `${METHODS[by.method] ?? by.method}: from ${by.evaluations} images with parts hidden`;
    return { ...KINDS, where_black_box: ["where hiding changes it", title] };
  }

  /** The image with the map of a concept, all maps small, and the bars. */
  function subjectView(atlas, one, subject, { chosen, onpick, kind: first = "where_codes" }) {
    let kind = first,
      k = chosen,
      together = false;
    const stage = h("figure", { class: "stage" }),
      small = h("div", { class: "smalls", role: "group", "aria-label": "A map of each concept" });
    const order = subject.importances.map((_, i) => i).sort((a, b) => subject.importances[b] - subject.importances[a]);
    const photo = (alt, extra = {}) =>
      h("img", { src: subject.src, width: subject.size[0], height: subject.size[1], alt, ...extra });

    function draw() {
      const maps = order.map((i) => subject.map(kind, i));
      const shared = maps.reduce((most, map) => Math.max(most, largest(map)), 0);
      const scaleOf = (map) => (together ? shared : largest(map));
      const map = subject.map(kind, k);
      stage.replaceChildren(
        h(
          "div",
          { class: "overlay" },
          photo(`${subject.title}; ${Lens.conceptName(atlas, one, k)} is ${whereabouts(map)}`),
          veil(map, k, scaleOf(map)),
        ),
        h(
          "figcaption",
          {},
          badge(k),
          ` ${Lens.conceptName(atlas, one, k)}: ${whereabouts(map)}, adds ${signed(subject.importances[k])}`,
        ),
      );
      small.replaceChildren(
        ...order.map((i, at) =>
          h(
            "button",
            {
              class: "where",
              "aria-pressed": String(i === k),
              data: { k: i },
              style: { "--tint": colour(i) },
              "aria-label": `${Lens.conceptName(atlas, one, i)} is ${whereabouts(maps[at])}`,
              onclick: () => onpick(i),
            },
            h("span", { class: "overlay" }, photo("", { loading: "lazy" }), veil(maps[at], i, scaleOf(maps[at]))),
            h("span", { class: "caption" }, badge(i), signed(subject.importances[i])),
          ),
        ),
      );
      Lens.roving(small, "button", { columns: Lens.columnsOf(small) });
    }

    const choose = h(
      "div",
      { class: "tools", role: "group", "aria-label": "How places are found" },
      Object.entries(kindsOf(subject)).map(([id, [text, title]]) =>
        h(
          "button",
          {
            class: "tool",
            title,
            "aria-pressed": String(id === kind),
            data: { kind: id },
            onclick: async () => {
              for (const other of choose.querySelectorAll("[data-kind]"))
                other.setAttribute("aria-pressed", String(other.dataset.kind === id));
              stage.setAttribute("aria-busy", "true");
              if (subject.prepare) Lens.say("Looking; the first time takes longer");
              try {
                await subject.prepare?.(id);
                kind = id;
                draw();
              } catch (error) {
                Lens.say(error.message);
              }
              stage.removeAttribute("aria-busy");
            },
          },
          text,
        ),
      ),
      h(
        "button",
        {
          class: "tool",
          "aria-pressed": "false",
          title: "Draw all maps on the scale of the strongest",
          onclick: (event) => {
            together = !together;
            event.currentTarget.setAttribute("aria-pressed", String(together));
            draw();
          },
        },
        "one scale",
      ),
    );
    const said = h(
      "div",
      { class: "said-of" },
      h("h3", {}, subject.title),
      subject.truth &&
        h(
          "p",
          { class: subject.correct === 0 ? "wrong" : "soft" },
          subject.correct === 0 ? `Wrong: it is ${Lens.short(subject.truth)}` : "Right",
        ),
      Lens.guesses(one, subject.top, 5),
    );
    const view = h(
      "div",
      { class: "subject" },
      h("div", { class: "see" }, choose, stage, small),
      h("div", { class: "read" }, said, localBars(atlas, one, subject, { chosen, onpick })),
    );
    draw();
    view.lens = {
      pick: (to) => {
        k = to;
        draw();
        for (const bar of view.querySelectorAll("button.bar"))
          bar.setAttribute("aria-pressed", String(Number(bar.dataset.k) === to));
      },
    };
    document.addEventListener("lens-theme", function again() {
      if (view.isConnected) draw();
      else document.removeEventListener("lens-theme", again);
    });
    return view;
  }

  /** This image against the class: the bar is its own, the strip behind is where 90 % of the images are. */
  function localBars(atlas, one, subject, { chosen, onpick }) {
    const order = subject.importances.map((_, i) => i).sort((a, b) => subject.importances[b] - subject.importances[a]);
    const rows = order.map((k) => {
      const value = subject.importances[k],
        above = Lens.rank(one, k, value);
      return {
        k,
        label: Lens.conceptName(atlas, one, k),
        value,
        strip: Lens.quantiles(one, k),
        text: signed(value),
        spoken: `adds ${signed(value)}; more than in ${percent(above)} of the images of the class, whose mean is ${signed(one.concepts[k].importance.value)}`,
        faint: !one.concepts[k].important,
      };
    });
    rows.push({
      k: -1,
      label: "not explained",
      value: subject.score - subject.explained,
      text: signed(subject.score - subject.explained),
      faint: true,
    });
    return h(
      "div",
      { class: "local" },
      h("h4", {}, "In this image, and in the class"),
      Lens.bars(rows, { chosen, onpick, label: "What each concept adds in this image" }),
      h(
        "p",
        { class: "small" },
        `Bars: this image. Pale strips: 90 % and half of the class’s images. Logit ${number(subject.score)}, of which the concepts and the constant ${number(one.importance.origin)} make ${number(subject.explained)}.`,
      ),
    );
  }

  /** The section: exhibits to choose from. */
  function imageSection(atlas, one, { chosen, onpick, first = 0, onexhibit }) {
    if (!one.exhibits.length) return null;
    let k = chosen,
      view = null;
    const holder = h("div", {});
    const show = (i) => {
      view = subjectView(atlas, one, exhibitOf(atlas, one, i), { chosen: k, onpick });
      holder.replaceChildren(view);
      [...strip.children].forEach((one_, at) => one_.setAttribute("aria-pressed", String(at === i)));
    };
    const strip = h(
      "div",
      { class: "exhibits", role: "group", "aria-label": "Images" },
      one.exhibits.map((exhibit, i) =>
        h(
          "button",
          {
            class: `exhibit${one.point("correct", exhibit.row) === 0 ? " wrong" : ""}`,
            "aria-pressed": "false",
            "aria-label": `${one.nameOf(exhibit.row)}${one.point("correct", exhibit.row) === 0 ? ", wrong" : ""}`,
            onclick: () => {
              show(i);
              onexhibit(i);
            },
          },
          Lens.picture(one.place, exhibit.image, ""),
        ),
      ),
    );
    Lens.roving(strip, "button");
    const section = Lens.section(
      "image",
      "Where it looks",
      "Each concept has its place in an image. Choose an image, then a concept.",
      strip,
      holder,
    );
    const showAny = (i) => show(Math.min(Math.max(0, i), one.exhibits.length - 1));
    showAny(first);
    section.lens = {
      show: showAny,
      pick: (to) => {
        k = to;
        view.lens.pick(to);
      },
    };
    return section;
  }

  Object.assign(Lens, { subjectView, imageSection, exhibitOf, veil });
})();
