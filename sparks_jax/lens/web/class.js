// The page of a class, put together; one concept is chosen, and all parts follow it.
"use strict";
(() => {
  const { h, short, percent, range, count, signed } = Lens;
  const PARTS = {
    concepts: "Concepts",
    image: "Where",
    strategies: "Strategies",
    edit: "What if",
    errors: "Errors",
    trust: "Trust",
  };
  const NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];

  function lead(one) {
    const important = one.concepts.filter((concept) => concept.important).length,
      first = one.concepts[0];
    const right =
      one.precision.value === null
        ? ""
        : `, and is right in ${percent(one.precision.value)} of them (${range(one.precision, percent)})`;
    const decide =
      important === 0
        ? "No concept decides often."
        : `${NUMBERS[important] ?? important} ${important === 1 ? "concept decides" : "concepts decide"} most of them; the first makes ${percent(first.share)} of what concepts add to the logit.`;
    return `The network takes ${count(one.n, "image")} for ${short(one.name)}${right}. ${decide}`;
  }

  function classPage(atlas, one, concepts, route) {
    const number = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
    const at = atlas.byLabel.get(one.label),
      total = atlas.classes.length;
    let k = route.part === "concepts" ? Math.min(number(route.item) ?? 0, one.k - 1) : 0;
    const around = (step) => atlas.classes[(at + step + total) % total];
    const link = (part, item) =>
      history.replaceState(null, "", `#/${atlas.id}/${one.id}/${part}${item === undefined ? "" : `/${item}`}`);

    const show = h("div", { class: "shown" }),
      compass = h("aside", { class: "compass" });
    const pick = (to, { quiet = false } = {}) => {
      k = to;
      if (!quiet) {
        link("concepts", k);
        Lens.say(`${Lens.conceptName(atlas, one, k)}, ${percent(one.concepts[k].share)} of what concepts add`);
      }
      for (const button of page.querySelectorAll(".gallery button")) {
        button.setAttribute("aria-selected", String(Number(button.dataset.k) === k));
        button.tabIndex = Number(button.dataset.k) === k ? 0 : -1;
      }
      drawCompass();
      drawPanel();
      image?.lens.pick(k);
    };
    // What has the focus is drawn anew: the new one takes it over.
    const redrawn = (holder, selector, draw) => {
      const had =
        holder.contains(document.activeElement) && document.activeElement.matches(selector)
          ? document.activeElement.dataset.k
          : null;
      draw();
      if (had !== null) {
        const again = holder.querySelector(`${selector}[data-k="${had}"]`);
        if (again) {
          again.tabIndex = 0;
          again.focus({ preventScroll: true });
        }
      }
    };
    const drawCompass = () =>
      redrawn(compass, document.activeElement?.classList.contains("spot") ? ".spot" : ".bar", () =>
        compass.replaceChildren(
          h("h3", {}, "What each adds to the logit"),
          Lens.importanceBars(atlas, one, { chosen: k, onpick: pick }),
          h(
            "p",
            { class: "small" },
            `Mean over the images, share of the sum; lines are ${percent(atlas.level)} intervals.`,
          ),
          h("h3", {}, "Which are alike"),
          Lens.proximity(one, (i) => Lens.conceptName(atlas, one, i), { chosen: k, onpick: pick }),
        ),
      );
    const drawPanel = () =>
      show.replaceChildren(
        Lens.conceptPanel(atlas, one, k, concepts, () => {
          drawCompass();
          const label = page.querySelector(`#concept-${k} .label`);
          if (label) label.textContent = Lens.conceptName(atlas, one, k);
          const title = show.querySelector(".tell h3"),
            note = Lens.noteOf(atlas, one, k);
          title.replaceChildren(
            Lens.badge(k),
            ` ${Lens.conceptName(atlas, one, k)}`,
            ...(note.tag ? [h("span", { class: `tag ${note.tag}` }, note.tag)] : []),
          );
        }),
      );

    const image = Lens.imageSection(atlas, one, {
      chosen: k,
      onpick: pick,
      first: route.part === "image" ? (number(route.item) ?? 0) : 0,
      onexhibit: (i) => link("image", i),
    });
    const edit = Lens.editSection(
      atlas,
      one,
      route.part === "edit" ? (number(route.item) ?? 0) : (one.exhibits[0]?.row ?? 0),
    );
    const toEdit = (row) => {
      link("edit", row);
      edit.lens.show(row);
      edit.scrollIntoView();
      edit.querySelector("select").focus({ preventScroll: true });
    };
    const strategies = Lens.strategiesSection(atlas, one, {
      chosen: k,
      first: route.part === "strategies" ? number(route.item) : null,
      onpick: pick,
      onedit: toEdit,
    });
    const parts = h(
      "nav",
      { class: "parts-of", "aria-label": "Parts of this page" },
      Object.entries(PARTS)
        .filter(([id]) => id !== "image" || image)
        .map(([id, text]) => h("a", { href: `#/${atlas.id}/${one.id}/${id}`, data: { part: id } }, text)),
    );
    const page = h(
      "article",
      { class: "page class" },
      h(
        "div",
        { class: "head" },
        h(
          "div",
          {},
          h("p", { class: "eyebrow" }, h("a", { href: `#/${atlas.id}` }, atlas.title), ` · class ${one.label}`),
          h("h1", {}, short(one.name)),
          short(one.name) !== one.name && h("p", { class: "full" }, one.name),
          h("p", { class: "lead" }, lead(one)),
        ),
        h(
          "nav",
          { class: "around", "aria-label": "Neighbours" },
          h(
            "a",
            {
              class: "button",
              href: `#/${atlas.id}/compare/${one.id}`,
              title: "Beside the same class of another model, or another class",
            },
            "Side by side",
          ),
          h(
            "a",
            {
              class: "button",
              rel: "prev",
              href: `#/${atlas.id}/${around(-1).id}`,
              "aria-label": `Previous class: ${short(around(-1).name)}`,
            },
            "←",
          ),
          h(
            "a",
            {
              class: "button",
              rel: "next",
              href: `#/${atlas.id}/${around(1).id}`,
              "aria-label": `Next class: ${short(around(1).name)}`,
            },
            "→",
          ),
        ),
      ),
      parts,
      Lens.section(
        "concepts",
        "What it uses",
        null,
        h("div", { class: "using" }, Lens.gallery(atlas, one, { chosen: k, onpick: pick }), compass),
        show,
      ),
      image,
      strategies,
      edit,
      Lens.errorsSection(atlas, one, { onrow: toEdit }),
      Lens.trustSection(atlas, one),
    );
    drawCompass();
    drawPanel();

    const seen = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          if (entry.isIntersecting)
            for (const to of parts.children) to.toggleAttribute("aria-current", to.dataset.part === entry.target.id);
        }),
      { rootMargin: "-30% 0px -60% 0px" },
    );
    page.querySelectorAll("section.part").forEach((one_) => seen.observe(one_));
    page.lens = {
      release: () => {
        seen.disconnect();
        strategies.lens.plane.lens.release();
      },
      go: (part, item) => {
        if (part === "concepts" && number(item) !== null) pick(Math.min(number(item), one.k - 1), { quiet: true });
        if (part === "image" && number(item) !== null) image?.lens.show(number(item));
        if (part === "edit" && number(item) !== null) edit.lens.show(number(item));
        if (part === "strategies" && number(item) !== null) strategies.lens.about(Math.min(number(item), one.n - 1));
        document.getElementById(part)?.scrollIntoView();
      },
      neighbour: (step) => {
        location.hash = `#/${atlas.id}/${around(step).id}`;
      },
      pick: (to) => {
        if (to < one.k) pick(to);
      },
    };
    return page;
  }

  Object.assign(Lens, { classPage });
})();
