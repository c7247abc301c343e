// Links, keys, theme: what holds the page together.
"use strict";
(() => {
  const { h } = Lens;
  const root = document.documentElement,
    main = document.getElementById("main");
  let atlas = null,
    page = null,
    drawn = "",
    turn = 0,
    polling = 0;

  function parse() {
    const [id, second, part, ...items] = location.hash
      .replace(/^#\/?/, "")
      .split("/")
      .filter(Boolean)
      .map((text) => {
        try {
          return decodeURIComponent(text);
        } catch {
          return text;
        }
      });
    return { id, second, part, items, item: items[0] };
  }

  Lens.isLive = (of) => Boolean(root.dataset.live) && Boolean(of) && (Lens.live?.atlases[of.id]?.live ?? false);
  Lens.random = (of) => {
    location.hash = `#/${of.id}/${of.classes[Math.floor(Math.random() * of.classes.length)].id}`;
  };

  // --- the head -------------------------------------------------------------------------------------------

  function themeButton() {
    const order = ["auto", "light", "dark"],
      names = { auto: "as the system", light: "light", dark: "dark" };
    const button = h("button", {
      class: "tool round",
      onclick: () => set(order[(order.indexOf(root.dataset.theme ?? "auto") + 1) % 3]),
    });
    const label = () => {
      const now = root.dataset.theme ?? "auto";
      button.textContent = { auto: "◐", light: "☀", dark: "☾" }[now];
      button.setAttribute("aria-label", `Theme: ${names[now]}`);
      button.title = `Theme: ${names[now]}`;
    };
    const set = (to) => {
      if (to === "auto") delete root.dataset.theme;
      else root.dataset.theme = to;
      try {
        localStorage.setItem("lens-theme", to);
      } catch {
        /* not kept */
      }
      label();
      document.dispatchEvent(new CustomEvent("lens-theme"));
      Lens.say(`Theme: ${names[to]}`);
    };
    label();
    return button;
  }

  function head(lens) {
    const top = document.getElementById("top");
    top.replaceChildren(
      h("a", { class: "brand", href: "#/" }, h("img", { src: "icon.svg", alt: "", width: 22, height: 22 }), "Lens"),
      ...(lens.atlases.length > 1 && atlas
        ? [
            h(
              "select",
              {
                class: "which",
                "aria-label": "Atlas",
                onchange: (event) => {
                  location.hash = `#/${event.target.value}`;
                },
              },
              lens.atlases.map((one) => h("option", { value: one.id, selected: one.id === atlas.id }, one.title)),
            ),
          ]
        : []),
      ...(atlas ? [Lens.searchBox(atlas)] : [h("span", { class: "search" })]),
      h(
        "nav",
        { class: "main-nav", "aria-label": "Main" },
        atlas && [
          h("a", { href: `#/${atlas.id}/map` }, "Map"),
          Lens.isLive(atlas) && h("a", { href: `#/${atlas.id}/photo` }, "Photo"),
          h("a", { href: `#/${atlas.id}/notes` }, "Notes"),
        ],
        h("a", { href: "#/make" }, "Make"),
      ),
      themeButton(),
      h(
        "button",
        { class: "tool round", data: { help: "" }, "aria-label": "Keys", title: "Keys (?)", onclick: help },
        "?",
      ),
    );
  }

  const KEYS = [
    ["/", "search classes"],
    ["← →  or  p n", "previous, next class"],
    ["1 … 9", "choose a concept"],
    ["r", "a class at random"],
    ["m", "map of all concepts"],
    ["h", "all classes"],
    ["t", "theme"],
    ["?", "this list"],
  ];
  function help() {
    const dialog = h(
      "dialog",
      { class: "help", "aria-labelledby": "keys" },
      h("h2", { id: "keys" }, "Keys"),
      h(
        "dl",
        { class: "pairs" },
        KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
      ),
      h("form", { method: "dialog" }, h("button", { class: "button first" }, "Close")),
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const acts = {
      "/": () => document.getElementById("search")?.focus(),
      "?": help,
      r: () => atlas && Lens.random(atlas),
      m: () => atlas && (location.hash = `#/${atlas.id}/map`),
      h: () => atlas && (location.hash = `#/${atlas.id}`),
      t: () => document.querySelector(".top .round").click(),
      n: () => page?.lens?.neighbour?.(1),
      p: () => page?.lens?.neighbour?.(-1),
      ArrowRight: () => page?.lens?.neighbour?.(1),
      ArrowLeft: () => page?.lens?.neighbour?.(-1),
    };
    const act =
      acts[event.key] ??
      (/^[1-9]$/.test(event.key) && page?.lens?.pick ? () => page.lens.pick(Number(event.key) - 1) : null);
    if (
      !act ||
      (event.target.closest?.("[role=tablist], [role=group], canvas, .bars, .tiles, .scroll") &&
        event.key.startsWith("Arrow"))
    )
      return;
    event.preventDefault();
    act();
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });

  // --- pages ----------------------------------------------------------------------------------------------

  async function make(lens, route) {
    const { id, second, part, items } = route;
    if (id === "make") return [Lens.makePage(), "Make an atlas"];
    const only = lens.atlases.length === 1 ? lens.atlases[0].id : null;
    if (!id && !only) {
      atlas = null;
      return [Lens.lensPage(lens), "Atlases"];
    }
    if (!atlas || atlas.id !== (id ?? only) || !atlas.finished)
      atlas = await Lens.readAtlas(id ?? only, { again: Boolean(atlas) && !atlas.finished });
    if (!second) return [Lens.homePage(atlas), atlas.title];
    if (second === "map")
      return [
        Lens.mapPage(atlas, await Lens.readConcepts(atlas), part === undefined ? -1 : Number(part)),
        "Map of all concepts",
      ];
    if (second === "notes") return [Lens.notesPage(atlas), "Notes"];
    if (second === "photo" && Lens.isLive(atlas)) return [await Lens.photoPage(lens, atlas), "Your photograph"];
    if (second === "compare") return [await Lens.comparePage(lens, atlas, [part, ...items]), "Side by side"];
    const entry = atlas.classes.find((one) => one.id === second);
    if (!entry)
      throw new Error(
        second === "photo"
          ? "Photographs need the live server: sparks lens serve."
          : `There is no class “${second}” in this atlas.`,
      );
    const [one, concepts] = await Promise.all([Lens.readClass(atlas, entry), Lens.readConcepts(atlas)]);
    return [Lens.classPage(atlas, one, concepts, route), Lens.short(one.name)];
  }

  async function show() {
    const route = parse(),
      mine = ++turn;
    const where = [route.id, route.second].join("/");
    const isClass = /^\d+$/.test(route.second ?? "");
    if (where === drawn && isClass && page?.lens?.go) {
      page.lens.go(route.part ?? "concepts", route.item);
      return;
    }
    main.setAttribute("aria-busy", "true");
    let lens = null;
    try {
      lens = await Lens.readLens();
      const [made, title] = await make(lens, route);
      if (mine !== turn) return;
      page?.lens?.release?.();
      page = made;
      drawn = where;
      document.title = `${title} · Lens`;
      head(lens);
      main.replaceChildren(made);
      window.scrollTo(0, 0);
      if (isClass && route.part && route.part !== "concepts") document.getElementById(route.part)?.scrollIntoView();
      if (document.activeElement === document.body || !document.activeElement) main.focus({ preventScroll: true });
      Lens.say(title);
    } catch (error) {
      if (mine !== turn) return;
      page?.lens?.release?.();
      page = null;
      drawn = "";
      if (lens) head(lens); // the way on, from a link that leads nowhere
      main.replaceChildren(
        h(
          "article",
          { class: "page" },
          h("h1", {}, "This is not here"),
          h("p", { class: "lead", role: "alert" }, error.message),
          h("p", {}, h("a", { class: "button first", href: "#/" }, "To the beginning")),
        ),
      );
      document.title = "Not here · Lens";
    } finally {
      if (mine === turn) main.removeAttribute("aria-busy");
    }
    clearTimeout(polling);
    if (atlas && !atlas.finished && route.id && !route.second) polling = setTimeout(show, 4000);
  }

  async function start() {
    if (root.dataset.live) await Lens.startLive();
    window.addEventListener("hashchange", show);
    document.getElementById("foot").append(h("p", {}, "Made by sparks_jax. Nothing leaves this computer."));
    await show();
  }
  start();
})();
