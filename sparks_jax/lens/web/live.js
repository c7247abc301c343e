// What needs the server: your photograph.
"use strict";
(() => {
  const { h, short, number, percent, badge } = Lens;
  const held = { blob: null, name: "" }; // the photograph, while the page is open

  async function startLive() {
    try {
      Lens.live = await (await fetch("api/live")).json();
    } catch {
      Lens.live = { atlases: {}, limits: { bytes: 0 } };
    }
  }

  /** Ask the server; its refusals are sentences for the reader. */
  async function ask(path, body, signal) {
    const answer = await fetch(`api/${path}`, { method: "POST", body, signal, headers: { "X-Lens": "1" } });
    if (answer.ok) return answer;
    let said = `The server said ${answer.status}.`;
    try {
      said = (await answer.json()).error ?? said;
    } catch {
      /* no sentence */
    }
    throw new Error(said);
  }

  const query = (values) => new URLSearchParams(values).toString();

  /** A photograph as what `subjectView` shows. */
  async function explain(atlas, blob, title, id = null, signal = undefined) {
    const found = await (await ask(`${atlas.id}/explain?${query(id ? { class: id } : {})}`, blob, signal)).json();
    const one = await Lens.readClass(
      atlas,
      atlas.classes.find((entry) => entry.id === found.class),
    );
    const flat = (map) => ({ values: Float32Array.from(map.flat()), height: map.length, width: map[0].length });
    const maps = { where_codes: found.codes.map(flat) };
    const linear = {
      k: one.k,
      rivals: found.rivals,
      logitOf: (_, j) => found.logits[j],
      amountOf: (_, k) => found.amounts[k],
      slopeOf: (k, j) => found.slopes[k][j],
      importanceOf: (_, k) => found.importances[k],
    };
    const subject = {
      title,
      src: found.image,
      size: [found.side, found.side],
      top: found.predictions,
      truth: null,
      correct: -1,
      score: found.logits[0],
      explained: found.explained,
      importances: found.importances,
      map: (kind, k) => (maps[kind] ?? maps.where_codes)[k],
      prepare: async (kind) => {
        if (!maps[kind])
          maps[kind] = (await (await ask(`${atlas.id}/gradients?${query({ class: one.id })}`, blob)).json()).maps.map(
            flat,
          );
      },
    };
    const edited = async (removed) =>
      await (
        await ask(
          `${atlas.id}/edit?${query({ class: one.id, keep: removed.map((r) => (1 - r).toFixed(3)).join(",") })}`,
          blob,
        )
      ).json();
    return { one, subject, found, linear, edited };
  }

  /** Logits of an edit: here where the rest of the network is affine, else by the server, the last question only. */
  function logitsFor(atlas, { one, found, linear, edited }) {
    let asked = 0;
    const far = async (removed) => {
      const mine = ++asked;
      await new Promise((done) => setTimeout(done, 120));
      if (mine !== asked) return new Promise(() => {});
      const { all } = await edited(removed);
      return found.rivals.map((rival) => all[rival.label]);
    };
    return Object.assign(
      atlas.model.affine_head ? (removed) => Lens.logitsWithout({ ...one, ...linear }, 0, removed) : far,
      { before: found.logits, linear: { ...one, ...linear }, row: 0 },
    );
  }

  const likeness = (one, all) =>
    h(
      "div",
      { class: "tiles wide" },
      all.map((near) =>
        h(
          "figure",
          { class: "near" },
          Lens.tile(one, near.row, 72),
          h("figcaption", { class: "small" }, number(near.cosine, 2)),
        ),
      ),
    );

  /** Everything about the photograph, as one class. */
  function result(atlas, got, { again }) {
    const { one, subject, found } = got;
    let k = subject.importances.indexOf(Math.max(...subject.importances));
    const near = h("div", {});
    const showNear = () =>
      near.replaceChildren(
        h("h3", {}, "Images of the data that are like it"),
        likeness(one, found.nearest),
        h("h3", {}, badge(k), ` Like the place that has most of ${Lens.conceptName(atlas, one, k)}`),
        found.nearest_each[k].length
          ? likeness(one, found.nearest_each[k])
          : h("p", { class: "soft" }, "It is not in this photograph."),
      );
    const view = Lens.subjectView(atlas, one, subject, {
      chosen: k,
      onpick: (to) => {
        k = to;
        view.lens.pick(k);
        showNear();
      },
    });
    showNear();
    const others = found.predictions
      .map((guess) => [guess, atlas.classes[atlas.byLabel.get(guess.label)]])
      .filter(([, entry]) => entry);
    return h(
      "div",
      { class: "result" },
      h(
        "p",
        { class: "actions" },
        "Explained as ",
        h("a", { href: `#/${atlas.id}/${one.id}` }, short(one.name)),
        others
          .filter(([, entry]) => entry.id !== one.id)
          .map(([guess, entry]) =>
            h(
              "button",
              { class: "chip", onclick: () => again(entry.id) },
              `as ${short(guess.name)} (${percent(guess.probability)})`,
            ),
          ),
      ),
      view,
      h("section", { class: "part" }, near),
      Lens.section(
        "edit",
        "What if a concept were absent",
        "Take concepts away from your photograph, and watch the decision.",
        Lens.editor(
          atlas,
          { ...one, rivals: found.rivals },
          {
            row: 0,
            title: subject.title,
            logitsOf: logitsFor(atlas, got),
            how: atlas.model.affine_head
              ? Lens.EXACT
              : "Logits are the network’s own; the smallest removals and the curve are to first order.",
            importances: found.importances,
            present: found.amounts,
          },
        ),
      ),
    );
  }

  async function photoPage(lens, atlas) {
    const holder = h("div", { class: "holder", "aria-live": "polite" });
    const rivals = lens.atlases.filter((one) => one.id !== atlas.id && Lens.live.atlases[one.id]?.live);
    const left = new AbortController(); // the page
    let second = null,
      stop = new AbortController();

    async function show(id = null) {
      if (!held.blob) return;
      stop.abort(); // of two photographs the later one counts, and nobody computes for the earlier
      const mine = (stop = new AbortController());
      holder.replaceChildren(
        h("p", { class: "wait" }, "Looking … (the first photograph takes longer: the network is being compiled)"),
      );
      try {
        const got = await explain(atlas, held.blob, held.name, id, mine.signal);
        const parts = [result(atlas, got, { again: show })];
        if (second) {
          const other = await explain(second, held.blob, held.name, null, mine.signal);
          const column = (where, one) =>
            h(
              "section",
              { "aria-label": `${where.model.name}, ${where.title}` },
              h("h2", {}, where.model.name),
              h("p", { class: "soft" }, `${where.title}: ${short(one.one.name)}`),
              small(where, one),
            );
          parts.unshift(h("div", { class: "compare" }, column(atlas, got), column(second, other)));
        }
        if (mine.signal.aborted) return;
        holder.replaceChildren(...parts);
        Lens.say(`${short(got.one.name)}, ${percent(got.found.predictions[0].probability)}`);
      } catch (error) {
        if (error.name !== "AbortError")
          holder.replaceChildren(h("p", { class: "note", role: "alert" }, error.message));
      }
    }
    const small = (where, { one, subject }) => {
      const view = Lens.subjectView(where, one, subject, {
        chosen: subject.importances.indexOf(Math.max(...subject.importances)),
        onpick: (to) => view.lens.pick(to),
      });
      return view;
    };

    function take(blob, name) {
      if (!blob || !blob.type.startsWith("image/")) {
        holder.replaceChildren(h("p", { class: "note", role: "alert" }, "This is not a picture."));
        return;
      }
      if (blob.size > Lens.live.limits.bytes) {
        holder.replaceChildren(
          h(
            "p",
            { class: "note", role: "alert" },
            `The picture is larger than ${Math.round(Lens.live.limits.bytes / 1e6)} MB.`,
          ),
        );
        return;
      }
      Object.assign(held, { blob, name: name || "Your photograph" });
      drop.classList.add("small");
      show();
    }
    const file = h("input", {
      type: "file",
      accept: "image/jpeg,image/png,image/webp",
      class: "hide",
      onchange: () => take(file.files[0], file.files[0]?.name),
    });
    const camera = h("button", { class: "button", onclick: () => webcam(take, drop, left.signal) }, "Camera");
    const drop = h(
      "div",
      {
        class: "drop",
        ondragover: (event) => {
          event.preventDefault();
          drop.classList.add("over");
        },
        ondragleave: () => drop.classList.remove("over"),
        ondrop: (event) => {
          event.preventDefault();
          drop.classList.remove("over");
          take(event.dataTransfer.files[0], event.dataTransfer.files[0]?.name);
        },
      },
      h("p", {}, "Drop a photograph here, paste one, or"),
      h(
        "div",
        { class: "actions" },
        h("label", { class: "button first" }, "Choose a file", file),
        navigator.mediaDevices && camera,
      ),
    );
    const paste = (event) => {
      const item = [...(event.clipboardData?.items ?? [])].find((one) => one.type.startsWith("image/"));
      if (item) {
        event.preventDefault();
        take(item.getAsFile(), "Pasted picture");
      }
    };
    document.addEventListener("paste", paste);
    const page = Lens.page(
      "Your photograph",
      {
        within: Lens.link(atlas),
        lead: `What ${atlas.model.name} sees in it, and by which concepts. It stays on the computer that runs Lens, in memory, and is forgotten.`,
      },
      drop,
      rivals.length > 0 &&
        h(
          "label",
          { class: "order" },
          "Compare with ",
          h(
            "select",
            {
              onchange: async (event) => {
                second = event.target.value ? await Lens.readAtlas(event.target.value) : null;
                show();
              },
            },
            h("option", { value: "" }, "no other model"),
            rivals.map((one) => h("option", { value: one.id }, one.title)),
          ),
        ),
      holder,
    );
    page.lens = {
      release: () => {
        document.removeEventListener("paste", paste);
        stop.abort();
        left.abort();
      },
    };
    if (held.blob) {
      drop.classList.add("small");
      show();
    }
    return page;
  }

  /** What the camera sees, until it is taken or closed, or the page is left. */
  async function webcam(take, place, left) {
    let stream = null;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch {
      Lens.say("The camera is not available.");
      return;
    }
    const video = h("video", { autoplay: true, playsinline: true, muted: true, "aria-label": "Camera" });
    video.srcObject = stream;
    const stop = () => {
      stream.getTracks().forEach((track) => track.stop());
      box.remove();
    };
    const box = h(
      "div",
      { class: "camera" },
      video,
      h(
        "div",
        { class: "actions" },
        h(
          "button",
          {
            class: "button first",
            onclick: () => {
              const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
              canvas.getContext("2d").drawImage(video, 0, 0);
              canvas.toBlob((blob) => take(blob, "Camera"), "image/jpeg", 0.92);
              stop();
            },
          },
          "Take it",
        ),
        h("button", { class: "button", onclick: stop }, "Close"),
      ),
    );
    place.append(box);
    if (left.aborted) stop();
    else left.addEventListener("abort", stop);
  }

  Object.assign(Lens, { startLive, photoPage, ask, query });
})();
