// Names, tags and notes of the reader, kept in the browser, and written out as a file.
"use strict";
(() => {
  const { h } = Lens;
  const TAGS = ["object", "part", "context", "spurious", "unclear"];
  const key = (atlas) => `lens-notes-${atlas.id}-${atlas.fingerprint}`;
  let memory = {};

  function all(atlas) {
    try {
      return JSON.parse(localStorage.getItem(key(atlas))) ?? {};
    } catch {
      return memory[key(atlas)] ?? {};
    }
  }

  function keep(atlas, notes) {
    memory[key(atlas)] = notes;
    try {
      localStorage.setItem(key(atlas), JSON.stringify(notes));
    } catch {
      Lens.say("The browser keeps nothing for this page: save your notes as a file.");
    }
  }

  const noteOf = (atlas, one, k) => all(atlas)[`${one.id}/${k}`] ?? {};

  function setNote(atlas, one, k, change) {
    const notes = all(atlas),
      id = `${one.id}/${k}`;
    notes[id] = { ...notes[id], class: one.name, ...change };
    const { name, tag, text, merge } = notes[id];
    if (!name && !tag && !text && (merge ?? null) === null) delete notes[id];
    keep(atlas, notes);
  }

  /** What a concept is called: by the reader, by the data, or by its number. */
  const conceptName = (atlas, one, k) => noteOf(atlas, one, k).name || one.concepts[k].name || `Concept ${k + 1}`;

  /** The form under a concept. */
  function noteForm(atlas, one, k, onchange) {
    const note = noteOf(atlas, one, k);
    const set = (change) => {
      setNote(atlas, one, k, change);
      onchange();
    };
    const others = one.concepts.map((_, i) => i).filter((i) => i !== k);
    return h(
      "form",
      { class: "note", onsubmit: (event) => event.preventDefault() },
      h(
        "label",
        {},
        "Name",
        h("input", {
          value: note.name ?? "",
          placeholder: one.concepts[k].name ?? `Concept ${k + 1}`,
          maxlength: 80,
          autocomplete: "off",
          onchange: (event) => set({ name: event.target.value.trim() }),
        }),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "What it is"),
        TAGS.map((tag) =>
          h(
            "label",
            { class: "chip" },
            h("input", {
              type: "radio",
              name: "tag",
              checked: note.tag === tag,
              onclick: () => set({ tag: noteOf(atlas, one, k).tag === tag ? null : tag }),
            }),
            tag,
          ),
        ),
      ),
      h(
        "label",
        {},
        "Same as",
        h(
          "select",
          { onchange: (event) => set({ merge: event.target.value === "" ? null : Number(event.target.value) }) },
          h("option", { value: "" }, "no other"),
          others.map((i) => h("option", { value: i, selected: note.merge === i }, conceptName(atlas, one, i))),
        ),
      ),
      h(
        "label",
        { class: "wide" },
        "Note",
        h("textarea", {
          rows: 2,
          maxlength: 2000,
          placeholder: "What you see, what to check",
          value: note.text ?? "",
          onchange: (event) => set({ text: event.target.value.trim() }),
        }),
      ),
    );
  }

  const line = (text) =>
    String(text)
      .replace(/\s+/g, " ")
      .replace(/[\\`*_{}[\]<>#|]/g, "\\$&");

  function asMarkdown(atlas) {
    const notes = all(atlas),
      lines = [
        `# Notes on ${line(atlas.title)}`,
        "",
        `Model: ${line(atlas.model.name)}. Images: ${line(atlas.data.name)}. Fingerprint: ${line(atlas.fingerprint)}.`,
      ];
    let last = null;
    for (const id of Object.keys(notes).sort()) {
      const note = notes[id],
        [cls, k] = id.split("/");
      if (cls !== last) lines.push("", `## ${line(note.class)} (${cls})`);
      last = cls;
      const same = (note.merge ?? null) === null ? "" : `, the same as concept ${note.merge + 1}`;
      lines.push(
        `- **${line(note.name || `Concept ${Number(k) + 1}`)}** (concept ${Number(k) + 1}${same})${note.tag ? ` [${note.tag}]` : ""}${note.text ? `: ${line(note.text)}` : ""}`,
      );
    }
    return `${lines.join("\n")}\n`;
  }

  /** Notes from a file: only what a note may hold. */
  function cleaned(notes) {
    const text = (value, most) => (typeof value === "string" ? value.slice(0, most) : undefined);
    return Object.fromEntries(
      Object.entries(notes)
        .filter(([id]) => /^\d{4,}\/\d+$/.test(id))
        .map(([id, note]) => [
          id,
          {
            class: text(note.class, 200) ?? id,
            name: text(note.name, 80),
            text: text(note.text, 2000),
            tag: TAGS.includes(note.tag) ? note.tag : null,
            merge: Number.isInteger(note.merge) ? note.merge : null,
          },
        ]),
    );
  }

  /** The page of all notes. */
  function notesPage(atlas) {
    const notes = all(atlas),
      ids = Object.keys(notes).sort();
    const redraw = () => document.getElementById("main").replaceChildren(notesPage(atlas));
    const read = async (event) => {
      try {
        const given = JSON.parse(await event.target.files[0].text());
        if (given.format !== "sparks-lens-notes" || typeof given.notes !== "object") throw new Error();
        if (given.fingerprint !== atlas.fingerprint) throw new Error("These notes are about another atlas.");
        keep(atlas, { ...all(atlas), ...cleaned(given.notes) });
        redraw();
        Lens.say("Notes added.");
      } catch (error) {
        Lens.say(error.message || "This is not a file of notes.");
      }
    };
    return Lens.page(
      "Your notes",
      {
        within: Lens.link(atlas),
        lead: ids.length
          ? `${Lens.count(ids.length, "concept")} named, tagged or commented. They are kept in this browser only.`
          : "Open a class, choose a concept, and give it a name, a tag or a note: they are listed here, and kept in this browser only.",
      },
      h(
        "div",
        { class: "actions" },
        h(
          "button",
          {
            class: "button first",
            onclick: () => Lens.download(`notes-${atlas.id}.md`, "text/markdown", asMarkdown(atlas)),
          },
          "Save as report",
        ),
        h(
          "button",
          {
            class: "button",
            onclick: () =>
              Lens.download(
                `notes-${atlas.id}.json`,
                "application/json",
                JSON.stringify({ format: "sparks-lens-notes", fingerprint: atlas.fingerprint, notes }, null, 1),
              ),
          },
          "Save as data",
        ),
        h(
          "label",
          { class: "button" },
          "Add from a file",
          h("input", { type: "file", accept: ".json", class: "hide", onchange: read }),
        ),
      ),
      h(
        "ul",
        { class: "notes" },
        ids.map((id) => {
          const note = notes[id],
            [cls, k] = id.split("/");
          return h(
            "li",
            {},
            h(
              "a",
              { href: `#/${atlas.id}/${cls}/concepts/${k}` },
              `${Lens.short(note.class)}: ${note.name || `Concept ${Number(k) + 1}`}`,
            ),
            note.tag && h("span", { class: `tag ${note.tag}` }, note.tag),
            note.text && h("p", {}, note.text),
          );
        }),
      ),
    );
  }

  Object.assign(Lens, {
    noteOf,
    setNote,
    conceptName,
    noteForm,
    notesPage,
    notesAsMarkdown: asMarkdown,
    allNotes: all,
  });
})();
