// How to make an atlas of one's own: the command, put together.
"use strict";
(() => {
  const { h } = Lens;
  const quoted = (text) => (/^[\w./:~-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

  function makePage() {
    const given = { model: "", weights: "", data: "", out: "" };
    const code = h("code", {});
    const draw = () => {
      code.textContent = [
        "sparks lens build",
        ...Object.entries(given)
          .filter(([, value]) => value)
          .map(([name, value]) => `--${name} ${quoted(value)}`),
      ].join(" ");
    };
    const field = (name, label, hint) =>
      h(
        "label",
        {},
        label,
        h("input", {
          placeholder: hint,
          autocomplete: "off",
          spellcheck: "false",
          oninput: (event) => {
            given[name] = event.target.value.trim();
            draw();
          },
        }),
      );
    draw();
    return Lens.page(
      "An atlas of your own",
      {
        kind: "make",
        lead: "A model, and a folder with a folder of images for each class. The command below builds the atlas where it is run; this page shows it as it grows.",
      },
      h(
        "form",
        { class: "note", onsubmit: (event) => event.preventDefault() },
        field("model", "Model", "efficientnet_lite0, or my_network.py:make"),
        field("weights", "Weights, if the model needs a file", "resnet50.pth"),
        field("data", "Images", "folder/, or a TFDS name"),
        field("out", "Bundle", "lens-bundle"),
      ),
      h("pre", { class: "command", tabindex: "0" }, code),
      h(
        "div",
        { class: "actions" },
        h(
          "button",
          {
            class: "button first",
            onclick: async () => {
              try {
                await navigator.clipboard.writeText(code.textContent);
                Lens.say("Copied.");
              } catch {
                getSelection().selectAllChildren(code);
                Lens.say("Selected: copy it with your keyboard.");
              }
            },
          },
          "Copy",
        ),
      ),
      h(
        "p",
        { class: "soft" },
        "Without any option it builds a small atlas of the bundled network, from photographs at hand. Then: ",
        h("code", {}, "sparks lens serve BUNDLE"),
        " shows it with your own photographs, ",
        h("code", {}, "sparks lens export BUNDLE --out SITE"),
        " makes a site of it.",
      ),
    );
  }

  Object.assign(Lens, { makePage });
})();
