// Whether to trust the concepts of a class: what was measured, in words.
"use strict";
(() => {
  const { h, number, percent, range, signed } = Lens;

  function rows(one) {
    const m = one.metrics,
      i = one.importance;
    return [
      [
        "Completeness",
        i.residual.value,
        `The concepts and the constant make ${number(i.explained.value)} of a mean logit of ${number(i.score.value)}; ${signed(i.residual.value)} (${range(i.residual, signed)}) is not theirs.`,
        "near 0",
      ],
      [
        "Error of the activations",
        m.relative_error,
        "What the concepts leave out of the activations, relative to their norm.",
        "lower is better",
      ],
      [
        "R² of the activations",
        m.r_squared,
        "The share of their variance that the concepts explain.",
        "higher is better",
      ],
      ["R² of the logit", m.logit_r_squared, "Likewise of the logit of the class.", "higher is better"],
      [
        "Agreement",
        m.agreement,
        "Images of which the network says the same when only the concepts are left.",
        "higher is better",
      ],
      ["Stability", m.stability, "Likeness of the concepts to those found with another seed.", "higher is better"],
      [
        "Sum of total Sobol’ indices",
        i.sobol_total?.value ?? null,
        "At least 1, up to its error; below, the sampling was too small.",
        "at least 1",
      ],
      ["C-Deletion", m.c_deletion, "Area under the logit while concepts go, the strongest first.", "lower is better"],
      ["C-Insertion", m.c_insertion, "Area under it while they come.", "higher is better"],
      ["C-μFidelity", m.c_fidelity, "Correlation of what sets of concepts should do with what they do.", "near 1"],
    ];
  }

  const trustSection = (atlas, one) =>
    Lens.section(
      "trust",
      "Can I trust it?",
      `${one.importance.exact ? "What concepts add is exact here: the rest of the network is affine." : "What concepts add is to first order here: the rest of the network is not affine."} Intervals are at ${percent(atlas.level)}.`,
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measures" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Measure", "Value", "What it says", "Good is"].map((text) => h("th", { scope: "col" }, text)),
            ),
          ),
          h(
            "tbody",
            {},
            rows(one).map(([name, value, text, good]) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, name),
                h("td", { class: "value" }, value === null ? "not measured" : number(value)),
                h("td", {}, text),
                h("td", { class: "soft" }, good),
              ),
            ),
          ),
        ),
      ),
      one.notes.length > 0 &&
        h(
          "ul",
          { class: "notes-on" },
          one.notes.map((text) => h("li", {}, text)),
        ),
      h(
        "p",
        { class: "small" },
        `Fingerprint ${one.fingerprint}. `,
        h(
          "a",
          {
            href: `${one.place}${one.entry.file}${document.documentElement.dataset.files === "scripts" ? ".js" : ""}`,
            download: "",
          },
          "The numbers of this class",
        ),
      ),
    );

  Object.assign(Lens, { trustSection });
})();
