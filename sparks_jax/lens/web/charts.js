// Bars with intervals, strips of distributions, curves and the map of concepts: small, and readable without colours.
"use strict";
(() => {
  const { h, s, number, signed, percent, range, colour, badge } = Lens;
  const clamp = (x) => Math.max(0, Math.min(100, x));

  /** From values to places on one axis that holds them all, and zero: in percent of the width. */
  function axis(values) {
    let low = Math.min(0, ...values),
      high = Math.max(0, ...values);
    if (low === high) high = low + 1;
    const spread = high - low;
    if (low < 0) low -= 0.02 * spread;
    high += 0.02 * spread;
    return (value) => clamp((100 * (value - low)) / (high - low));
  }

  const piece = (kind, x0, x1, tint) =>
    h("span", {
      class: kind,
      style: { left: `${Math.min(x0, x1)}%`, width: `${Math.abs(x1 - x0)}%`, ...(tint ? { "--tint": tint } : {}) },
    });

  /**
   * Bars on one axis. rows: {k, label, value, low, high, text, strip, faint}; k = −1 for what is no concept.
   * A strip is five quantiles, drawn behind; the whisker is the interval.
   */
  function bars(rows, { onpick = null, chosen = null, label = "Importance of concepts" } = {}) {
    const all = rows.flatMap((row) => [
      row.value,
      row.low ?? row.value,
      row.high ?? row.value,
      ...(row.strip ? [row.strip[0], row.strip[4]] : []),
    ]);
    const at = axis(all),
      zero = at(0);
    const one = (row) => {
      const tint = row.k >= 0 ? colour(row.k) : "var(--soft)";
      const track = h(
        "span",
        { class: "track", "aria-hidden": "true" },
        row.strip && [
          piece("strip", at(row.strip[0]), at(row.strip[4]), tint),
          piece("strip inner", at(row.strip[1]), at(row.strip[3]), tint),
        ],
        piece(`fill${row.strip ? " over" : ""}`, zero, at(row.value), tint),
        row.low !== undefined && row.high > row.low && piece("whisker", at(row.low), at(row.high)),
        h("span", { class: "zero", style: { left: `${zero}%` } }),
      );
      const inside = [
        row.k >= 0 ? badge(row.k) : h("span", { class: "badge none", "aria-hidden": "true" }, "·"),
        h("span", { class: "label" }, row.label),
        track,
        h("span", { class: "value" }, row.text ?? number(row.value)),
      ];
      const spoken = `${row.label}: ${row.spoken ?? row.text ?? number(row.value)}`;
      return h(
        "li",
        { class: row.faint ? "faint" : "" },
        onpick && row.k >= 0
          ? h(
              "button",
              {
                class: "bar",
                "aria-label": spoken,
                "aria-pressed": String(row.k === chosen),
                data: { k: row.k },
                onclick: () => onpick(row.k),
              },
              inside,
            )
          : h("span", { class: "bar", title: row.title ?? "" }, inside),
      );
    };
    const list = h("ul", { class: "bars", "aria-label": label }, rows.map(one));
    if (onpick) Lens.roving(list, "button.bar");
    return list;
  }

  /** A share with its interval as a thin bar. */
  const share = (one, what) =>
    h(
      "span",
      { class: "share", title: `${what}: ${one.number} of ${one.total}, ${range(one, percent)}` },
      h(
        "span",
        { class: "track", "aria-hidden": "true" },
        piece("fill", 0, 100 * (one.value ?? 0)),
        one.value !== null && piece("whisker", 100 * one.low, 100 * one.high),
      ),
      h("span", {}, one.value === null ? "unknown" : percent(one.value)),
    );

  /** A curve over equal steps. */
  function curve(values, { title, ends, marks = [], low = null }) {
    const [width, height, pad] = [420, 170, 34];
    const bottom = Math.min(low ?? Infinity, ...values),
      top = Math.max(...values);
    const x = (i) => pad + (i * (width - pad - 8)) / Math.max(1, values.length - 1);
    const y = (v) => 10 + ((top - v) * (height - 40)) / (top - bottom || 1);
    const spoken = `${title}: ${values.map((v) => number(v)).join(", ")}`;
    return s(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken, class: "curve" },
      [top, (top + bottom) / 2, bottom].map((v) => [
        s("line", { x1: pad, x2: width - 8, y1: y(v), y2: y(v), class: "rule" }),
        s("text", { x: pad - 6, y: y(v) + 4, "text-anchor": "end" }, number(v, 2)),
      ]),
      s("polyline", { points: values.map((v, i) => `${x(i)},${y(v)}`).join(" "), class: "line" }),
      values.map((v, i) =>
        s(
          "circle",
          {
            cx: x(i),
            cy: y(v),
            r: i ? 4 : 3,
            class: "dot",
            fill: i && marks[i - 1] !== undefined ? colour(marks[i - 1]) : "var(--ink)",
          },
          s("title", {}, number(v)),
        ),
      ),
      s("text", { x: pad, y: height - 6 }, ends[0]),
      s("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, ends[1]),
    );
  }

  /** Concepts of a class by likeness of direction: near means alike. */
  function proximity(one, nameOf, { chosen, onpick }) {
    const [width, height] = [320, 220];
    const place = (xy) => [width / 2 + xy[0] * (width / 2 - 26), height / 2 - xy[1] * (height / 2 - 24)];
    const biggest = Math.max(...one.concepts.map((concept) => Math.abs(concept.share)), 1e-9);
    const group = h("div", {
      class: "proximity",
      role: "group",
      "aria-label": "Map of the concepts: near ones point in like directions",
    });
    one.concepts.forEach((concept, k) => {
      const [x, y] = place(concept.xy);
      const size = 22 + 26 * Math.sqrt(Math.abs(concept.share) / biggest);
      group.append(
        h(
          "button",
          {
            class: "spot",
            "aria-pressed": String(k === chosen),
            data: { k },
            "aria-label": `${nameOf(k)}, ${percent(concept.share)}`,
            title: nameOf(k),
            style: {
              left: `${(100 * x) / width}%`,
              top: `${(100 * y) / height}%`,
              width: `${size}px`,
              height: `${size}px`,
              "--tint": colour(k),
            },
            onclick: () => onpick(k),
          },
          String(k + 1),
        ),
      );
    });
    Lens.roving(group, "button");
    return group;
  }

  /** Means of what concepts add, with those that the reader calls the same taken together. */
  function groups(atlas, one) {
    const root = (k, left = one.k) => {
      const to = Lens.noteOf(atlas, one, k).merge ?? null;
      return to === null || left === 0 ? k : root(to, left - 1);
    };
    const members = new Map();
    for (let k = 0; k < one.k; k++) {
      const to = root(k);
      members.set(to, [...(members.get(to) ?? []), k]);
    }
    const total = one.concepts.reduce((sum, concept) => sum + concept.importance.value, 0) || 1;
    return [...members]
      .map(([k, all]) => {
        if (all.length === 1 && all[0] === k)
          return { k, all, ...one.concepts[k].importance, share: one.concepts[k].share };
        let sum = 0,
          squares = 0;
        for (let row = 0; row < one.n; row++) {
          const v = all.reduce((acc, i) => acc + one.importanceOf(row, i), 0);
          sum += v;
          squares += v * v;
        }
        const mean = sum / one.n,
          half = 1.96 * Math.sqrt(Math.max(0, squares / one.n - mean * mean) / Math.max(1, one.n - 1));
        return { k, all, value: mean, low: mean - half, high: mean + half, share: mean / total };
      })
      .sort((a, b) => b.value - a.value);
  }

  /** The bars of a class: what each concept adds to the logit, the constant, and what is left over. */
  function importanceBars(atlas, one, { chosen, onpick }) {
    const unit = one.importance.unit;
    const rows = groups(atlas, one).map(({ k, all, value, low, high, share: part }) => {
      const name =
        all.map((i) => Lens.conceptName(atlas, one, i))[all.indexOf(k)] +
        (all.length > 1
          ? ` (with ${all
              .filter((i) => i !== k)
              .map((i) => i + 1)
              .join(", ")})`
          : "");
      return {
        k,
        label: name,
        value,
        low,
        high,
        text: percent(part),
        faint: !one.concepts[k].important,
        spoken: `${percent(part)}, adds ${signed(value)} to the ${unit}, ${range({ low, high }, signed)}`,
      };
    });
    const left = one.importance.residual;
    rows.push({
      k: -1,
      label: "not explained",
      value: left.value,
      low: left.low,
      high: left.high,
      text: signed(left.value),
      faint: true,
      title: "What the concepts leave out of the score: its mean, and its interval",
    });
    return bars(rows, { chosen, onpick, label: "Mean of what each concept adds to the logit" });
  }

  Object.assign(Lens, { bars, share, curve, proximity, importanceBars, groups });
})();
