// The search box: a combobox over the classes of an atlas.
"use strict";
(() => {
  const { h, short } = Lens;
  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

  /** Classes that have all the words, those whose name begins with the first of them first. */
  function find(atlas, text, most = 12) {
    const words = plain(text).split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const scored = [];
    atlas.classes.forEach((one, i) => {
      const name = plain(one.name),
        id = String(one.label);
      if (!words.every((word) => name.includes(word) || id === word)) return;
      const score =
        id === words[0]
          ? 0
          : name.startsWith(words[0])
            ? 1
            : new RegExp(`(^|[^\\p{L}\\p{N}])${words[0].replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "u").test(name)
              ? 2
              : 3;
      scored.push([score, i]);
    });
    return scored
      .sort((a, b) => a[0] - b[0] || a[1] - b[1])
      .slice(0, most)
      .map(([, i]) => atlas.classes[i]);
  }

  function searchBox(atlas) {
    const list = h("ul", { class: "found", id: "found", role: "listbox", "aria-label": "Classes found", hidden: true });
    const input = h("input", {
      type: "search",
      id: "search",
      role: "combobox",
      "aria-expanded": "false",
      "aria-controls": "found",
      "aria-autocomplete": "list",
      "aria-label": "Search classes",
      placeholder: `Search ${Lens.count(atlas.classes.length, "class", "classes")}`,
      autocomplete: "off",
      spellcheck: "false",
    });
    let found = [],
      at = -1;

    function close() {
      [list.hidden, at] = [true, -1];
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    }
    function go(one) {
      close();
      input.value = "";
      input.blur();
      location.hash = `#/${atlas.id}/${one.id}`;
    }
    function show() {
      found = find(atlas, input.value);
      at = found.length ? 0 : -1;
      list.replaceChildren(
        ...(found.length
          ? found.map((one, i) =>
              h(
                "li",
                {
                  id: `found-${i}`,
                  role: "option",
                  "aria-selected": String(i === at),
                  onpointerdown: (event) => {
                    event.preventDefault();
                    go(one);
                  },
                },
                one.cover
                  ? h("img", { src: atlas.place + one.cover, alt: "", width: 36, height: 36 })
                  : h("span", { class: "blank" }),
                h("span", {}, short(one.name)),
                h("span", { class: "soft" }, String(one.label)),
              ),
            )
          : input.value.trim()
            ? [
                h(
                  "li",
                  { class: "none", role: "option", "aria-selected": "false", "aria-disabled": "true" },
                  "No class has this name",
                ),
              ]
            : []),
      );
      list.hidden = !input.value.trim();
      input.setAttribute("aria-expanded", String(!list.hidden));
      mark();
    }
    function mark() {
      [...list.children].forEach((one, i) => {
        if (found.length) one.setAttribute("aria-selected", String(i === at));
      });
      if (at >= 0) {
        input.setAttribute("aria-activedescendant", `found-${at}`);
        list.children[at].scrollIntoView({ block: "nearest" });
      } else input.removeAttribute("aria-activedescendant");
    }
    input.addEventListener("input", show);
    input.addEventListener("focus", () => {
      if (input.value.trim()) show();
    });
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        input.value = "";
        close();
        input.blur();
        event.stopPropagation();
        return;
      }
      if (event.key === "Enter" && at >= 0 && !list.hidden) {
        event.preventDefault();
        go(found[at]);
        return;
      }
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !found.length) return;
      event.preventDefault();
      at = (at + step + found.length) % found.length;
      mark();
    });
    return h("div", { class: "search", role: "search" }, input, list, h("kbd", { "aria-hidden": "true" }, "/"));
  }

  Object.assign(Lens, { searchBox, find });
})();
