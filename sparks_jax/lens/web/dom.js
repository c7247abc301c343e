// Elements, numbers and words. Nothing here or elsewhere parses text as HTML: names are whatever users have.
"use strict";
const Lens = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, props, children) {
    for (const [name, value] of Object.entries(props ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
      else if (name === "value") node.value = value;
      else if (name === "data") Object.assign(node.dataset, value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }

  /** An element: h("p", {class: "soft"}, "text", other). */
  const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
  const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

  /** Digits that a reader needs: three that count. */
  function number(value, digits = 3, most = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    const places = size === 0 ? 0 : Math.max(0, Math.min(most, digits - 1 - Math.floor(Math.log10(size))));
    return value.toFixed(places).replace("-", "−");
  }

  /** What is added to a logit: two places are enough. */
  const signed = (value) => {
    const text = number(value, 3, 2);
    return value > 0 && !/^0(\.0*)?$/.test(text) ? `+${text}` : text.replace(/^−(0(\.0*)?)$/, "$1");
  };

  function percent(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const share = 100 * value;
    if (share > 0 && share < 0.5) return "< 1 %";
    return `${share.toFixed(0).replace("-", "−")} %`;
  }

  const range = (one, write = number) => (one.low === one.high ? "" : `${write(one.low)} to ${write(one.high)}`);
  const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

  /** Classes of ImageNet are lists of synonyms: the first is the name. */
  const short = (name) => {
    const first = name.split(",")[0].trim() || name;
    return first.length > 42 ? `${first.slice(0, 40)}…` : first;
  };

  const COLOURS = 5;
  const colour = (k) => (k < COLOURS ? `var(--c${k})` : "var(--cx)");

  /** Colours as the canvas needs them, as they are now. */
  function palette() {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(name).trim();
    const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return {
      concept: (k) => rgb(get(k >= 0 && k < COLOURS ? `--c${k}` : "--cx")),
      veil: (k) => rgb(get(k >= 0 && k < COLOURS ? `--c${k}` : "--veil")), // grey would not show on a grey photograph
      card: rgb(get("--card")),
      ink: rgb(get("--ink")),
      line: rgb(get("--line")),
      soft: rgb(get("--soft")),
    };
  }

  /** A number in a disc of its colour: what a concept is called before it has a name. */
  const badge = (k, extra = "") =>
    h("span", { class: `badge ${extra}`, style: { "--tint": colour(k) }, "aria-hidden": "true" }, String(k + 1));

  const picture = (place, image, alt, extra = {}) =>
    h("img", {
      src: place + image.file,
      width: image.width,
      height: image.height,
      alt,
      loading: "lazy",
      decoding: "async",
      ...extra,
    });

  let told = 0;
  function say(text) {
    const said = document.getElementById("said");
    said.textContent = text;
    clearTimeout(told);
    told = setTimeout(() => {
      said.textContent = "";
    }, 6000);
  }

  /** Roving focus: arrows move among the buttons of a group, Home and End to its ends. */
  function roving(group, selector, { columns = () => 1, onmove = null } = {}) {
    group.addEventListener("keydown", (event) => {
      const all = [...group.querySelectorAll(selector)];
      const at = all.indexOf(document.activeElement);
      if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : step ? at + step : -1;
      if (to < 0 || to >= all.length || (!step && !["Home", "End"].includes(event.key))) return;
      event.preventDefault();
      all.forEach((one, i) => {
        one.tabIndex = i === to ? 0 : -1;
      });
      all[to].focus();
      if (onmove) onmove(to);
    });
    group.querySelectorAll(selector).forEach((one, i) => {
      one.tabIndex = i === 0 ? 0 : -1;
    });
  }

  const columnsOf = (grid) => () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;

  /** A file for the user, made here. */
  function download(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = h("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  /** A heading with its sentence: the head of every section. */
  const section = (id, title, lead, ...children) =>
    h(
      "section",
      { class: "part", id, "aria-labelledby": `${id}-title` },
      h("h2", { id: `${id}-title` }, title),
      lead && h("p", { class: "lead" }, lead),
      children,
    );

  /** A page: its heading, what it is part of, a sentence about it, and the rest. */
  const page = (title, { within = null, lead = null, kind = "" }, ...children) =>
    h(
      "article",
      { class: `page ${kind}`.trim() },
      within && h("p", { class: "eyebrow" }, within),
      h("h1", {}, title),
      lead && h("p", { class: "lead" }, lead),
      children,
    );

  const link = (atlas) => h("a", { href: `#/${atlas.id}` }, atlas.title);

  /** A picture's name and number under it. */
  const caption = (k, label, value) =>
    h("span", { class: "caption" }, badge(k), label, h("span", { class: "value" }, percent(value)));

  /** The most probable classes, `one` in bold. */
  const guesses = (one, top, most) =>
    h(
      "ol",
      { class: "top-of" },
      top
        .slice(0, most)
        .map((guess) =>
          h(
            "li",
            { class: guess.label === one.label ? "this" : "" },
            h("span", { class: "meter", "aria-hidden": "true", style: { width: `${100 * guess.probability}%` } }),
            h("span", {}, short(guess.name)),
            h("span", { class: "value" }, percent(guess.probability)),
          ),
        ),
    );

  return {
    h,
    s,
    number,
    signed,
    percent,
    range,
    count,
    short,
    colour,
    palette,
    badge,
    picture,
    say,
    roving,
    columnsOf,
    download,
    section,
    page,
    link,
    caption,
    guesses,
    COLOURS,
  };
})();
