// Pictures of concepts, made by the server while you watch.
"use strict";
(() => {
  const { h, number, ask, query } = Lens;

  function visualizer(atlas, one, k) {
    const box = h("div", { class: "films" });
    let seed = 0,
      stop = null;
    const start = h("button", { class: "button", onclick: play }, "Watch it being made");

    async function play() {
      const image = h("img", { alt: `Concept ${k + 1}, being made from noise` }),
        bar = h("progress", { max: 1, value: 0, "aria-label": "Steps" }),
        text = h("p", { class: "small" }, "Waiting for the network …");
      stop = new AbortController();
      const watch = setInterval(() => {
        if (!box.isConnected) stop.abort();
      }, 500); // another concept was chosen
      box.replaceChildren(image, bar, text, h("button", { class: "button", onclick: () => stop.abort() }, "Stop"));
      try {
        const answer = await ask(
          `${atlas.id}/film?${query({ class: one.id, concept: k, seed: seed++ })}`,
          null,
          stop.signal,
        );
        for await (const line of lines(answer.body)) {
          if (line.error) throw new Error(line.error);
          image.src = line.image;
          bar.value = line.step / line.steps;
          text.textContent = `Step ${line.step} of ${line.steps}, score ${number(line.score)}`;
        }
      } catch (error) {
        if (error.name !== "AbortError") text.textContent = error.message;
      }
      clearInterval(watch);
      start.textContent = "Once more, from another start";
      box.lastChild.replaceWith(start);
    }
    box.append(start);
    return box;
  }

  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  }

  Object.assign(Lens, { visualizer });
})();
