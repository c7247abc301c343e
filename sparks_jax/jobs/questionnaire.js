"use strict";
// One page of a study. Everything it shows is in the page; everything it is told is kept in the browser at once, after
// each step, and leaves it only in the file that the participant saves.

const data = JSON.parse(document.getElementById("data").textContent);
const KEY = `sparks-study/${data.study}/${data.page}`;
const main = document.getElementById("main");
const explained = data.legend !== null;

// --- what is kept: every participant's answers, and whose turn it is ---

// In the browser's storage; where that is closed or full, in the name of the tab, which survives a reload of it. Of two
// the one with more saves is newer.
const memory = {
  read() {
    const found = [() => localStorage.getItem(KEY), () => window.name.startsWith(KEY) && window.name.slice(KEY.length)]
      .map((place) => { try { return JSON.parse(place()); } catch { return null; } })
      .filter(Boolean);
    return found.sort((a, b) => b.saves - a.saves)[0] ?? { current: null, people: {}, saves: 0 };
  },
  write(store) {
    store.saves += 1;
    const text = JSON.stringify(store);
    try {
      localStorage.setItem(KEY, text);
      return true;
    } catch {
      window.name = KEY + text;
      return false;
    }
  },
};

let store = memory.read();
let shownSince = 0; // when the present step was drawn first, on the clock of this load of the page
const me = () => store.people[store.current];

// How long the present step has been shown, over a reload of the tab. No answer is in it, so that no tab that is closed
// can overwrite one.
const clock = {
  stop() {
    try {
      if (me()) sessionStorage.setItem(KEY, JSON.stringify([store.current, me().step, performance.now() - shownSince]));
    } catch { /* then what is before a reload is not counted */ }
  },
  resume() {
    try {
      const [participant, step, spent] = JSON.parse(sessionStorage.getItem(KEY));
      if (participant === store.current && step === me().step) shownSince -= spent;
      sessionStorage.removeItem(KEY);
    } catch { /* nothing was kept */ }
  },
};

function keep() {
  if (!memory.write(store)) {
    trouble("This browser keeps nothing when the tab is closed. Leave it open until you have saved your answers.");
  }
}

function trouble(sentence) {
  const note = document.getElementById("trouble");
  note.textContent = sentence;
  note.hidden = false;
}

// --- the steps of a participant: the same after every reload ---

// Mulberry32, seeded by FNV-1a: the order depends on the study, the page and the participant only.
function generator(text) {
  let seed = 2166136261;
  for (const letter of text) seed = Math.imul(seed ^ letter.codePointAt(0), 16777619);
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, random) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

function stepsOf(participant) {
  const steps = [{ kind: "welcome" }];
  data.practice.forEach((trial, i) => {
    for (const kind of ["practice", "feedback"]) steps.push({ kind, trial, i, of: data.practice.length });
  });
  let seen = [];
  data.sessions.forEach((session, s) => {
    const random = generator(`${KEY}/${participant}/${s}`);
    const examples = shuffled(session.examples, random);
    examples.forEach((example, i) => steps.push({ kind: "example", s, example, i, of: examples.length }));
    seen = [...seen, ...examples];
    steps.push({ kind: "sheet", s, examples: seen });
    const asked = shuffled(session.questions, random);
    const total = asked.length + session.checks.length;
    const ask = (step) => steps.push({ s, i: steps.filter((t) => t.s === s && t.asks).length, of: total, asks: true, ...step });
    for (let i = 0; i <= asked.length; i++) {
      session.checks.filter((check) => check.before === i).forEach((check) => ask({ kind: "check", check }));
      if (i < asked.length) ask({ kind: "question", image: asked[i] });
    }
  });
  return [...steps, { kind: "done" }];
}

// --- what is saved ---

function newcomer(participant) {
  const sessions = data.sessions.map(() => ({ examples: [], questions: [], checks: [] }));
  return { participant, step: 1, started: new Date().toISOString(), finished: null, reloads: 0, practice: [], sessions };
}

function record(person) {
  const { step, ...said } = person;
  return { format: data.format, study: data.study, page: data.page, ...said };
}

function entry(step) {
  if (step.trial) return [me().practice, "image", step.trial.image];
  const session = me().sessions[step.s];
  if (step.kind === "question") return [session.questions, "image", step.image];
  if (step.kind === "check") return [session.checks, "before", step.check.before];
  return [session.examples, "image", step.example.image];
}

function note(step, more) {
  const [list, by, id] = entry(step);
  let found = list.find((one) => one[by] === id);
  if (!found) list.push((found = { [by]: id, milliseconds: 0 }));
  found.milliseconds += Math.round(performance.now() - shownSince);
  Object.assign(found, more);
}

function save(person) {
  const text = JSON.stringify(record(person), null, 1);
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: fileName(person) });
  document.body.append(link);
  link.click();
  link.remove();
}

const fileName = (person) => `answers-${data.study}-${data.page}-${person.participant}${person.finished ? "" : "-unfinished"}.json`;

// --- drawing ---

function el(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const button = (words, go, first = false) => el("button", { type: "button", class: `button${first ? " first" : ""}`, onclick: go }, words);
const actions = (...children) => el("div", { class: "actions" }, ...children);
const hint = (...children) => el("span", { class: "hint", "aria-hidden": "true" }, ...children);
const key = (name) => el("kbd", {}, name);
const image = (source, alt) => el("img", { src: source, alt });

function pair(example, alt) {
  const pictures = [image(data.pictures[example.image], alt)];
  if (explained) pictures.push(image(data.explanations[example.image], `${alt}, explained`));
  return pictures;
}

function go(to) {
  me().step = Math.max(1, Math.min(to, stepsOf(store.current).length - 1));
  keep();
  draw();
}

const sentence = () => (data.classes.length === 2 ? `${data.classes[0]} or ${data.classes[1]}` : data.classes.join(", "));

const screens = {
  welcome() {
    const asked = new URLSearchParams(location.hash.slice(1)).get("participant") ?? "";
    const input = el("input", { id: "code", autocomplete: "off", maxlength: 40, required: true, pattern: "[\\w.\\-]+", value: asked });
    const begin = (event) => {
      event.preventDefault();
      const code = input.value.trim();
      if (!/^[\w.-]+$/.test(code)) return input.focus();
      store.current = code;
      store.people[code] ??= newcomer(code);
      go(me().step);
    };
    const tries = data.practice.length, examples = data.sessions.at(-1).sheet, questions = data.sessions.reduce((n, s) => n + s.questions.length, 0);
    return [
      el("h1", { tabindex: -1 }, data.title),
      el("p", {}, `A computer model looks at pictures and says: ${sentence()}. It is not always right. Your task is to find out how it decides, and to predict what it will say.`),
      el("ol", { class: "steps" },
        tries ? el("li", {}, `First you try it on ${tries === 1 ? "a picture" : `${tries} pictures`}, and are told at once what the model said. This is for practice, and does not count.`) : null,
        el("li", {}, `${tries ? "Then you" : "You"} see ${examples} pictures, a few at a time, with what the model said of each.`, explained ? ` ${data.legend}` : ""),
        el("li", {}, `After each few you are asked about new pictures, ${questions} in all. Say what the model will say, even where you think that it will be wrong.`),
        el("li", {}, "At the end you save one file with your answers. Nothing is sent by this page.")),
      el("p", { class: "soft" }, "You can close or reload the page at any time and go on where you were."),
      el("form", { class: "code", id: "begin", onsubmit: begin, novalidate: true },
        el("label", { for: "code" }, "Your participant code"), input,
        el("span", { class: "soft" }, "Letters, digits, hyphens; from the person who invited you.")),
      people(),
      actions(el("button", { class: "button first", form: "begin" }, "Begin"), hint(key("Enter"))),
    ];
  },
  practice(step) {
    const place = `Practice ${step.i + 1} of ${step.of}`;
    return asking(step, place, el("div", { class: "stimulus" }, image(data.pictures[step.trial.image], place)), "What will the model say? Guess, if you do not know.");
  },
  feedback(step) {
    const [list, by, id] = entry(step), said = list.find((one) => one[by] === id).answer;
    const right = said === step.trial.answer, last = step.i + 1 === step.of;
    const place = `Practice ${step.i + 1} of ${step.of}: ${right ? "right" : "not right"}`;
    return [
      el("h1", { tabindex: -1 }, place),
      el("div", { class: "stimulus" }, image(data.pictures[step.trial.image], place)),
      el("p", { class: "said" }, "The model says: ", el("strong", {}, data.classes[step.trial.answer])),
      el("p", { class: "soft" }, right ? "So did you." : `You said: ${data.classes[said]}.`, last ? " That was the practice. From now on your answers count, and you are not told whether they are right." : ""),
      actions(forth(last ? "Start" : "Next", step), arrows(last ? "start" : "next")),
    ];
  },
  example(step) {
    const place = `Example ${step.i + 1} of ${step.of}`;
    return [
      el("h1", { tabindex: -1 }, place),
      el("div", { class: `stimulus${explained ? " two" : ""}` }, ...pair(step.example, place)),
      el("p", { class: "said" }, "The model says: ", el("strong", {}, data.classes[step.example.answer])),
      explained ? el("p", { class: "soft" }, data.legend) : null,
      actions(forth("Next", step), back(), arrows("next")),
    ];
  },
  sheet(step) {
    const cards = step.examples.map((example, i) =>
      el("li", {}, el("div", { class: `pair${explained ? " two" : ""}` }, ...pair(example, `Example ${i + 1}`)), el("p", {}, data.classes[example.answer])));
    const count = data.sessions[step.s].questions.length;
    return [
      el("h1", { tabindex: -1 }, "All that you have seen so far"),
      el("p", {}, `Take your time. Then you are asked about ${count} new pictures, and cannot look back.`),
      el("ol", { class: `sheet${explained ? " two" : ""}` }, ...cards),
      actions(forth("I am ready", step), back(), arrows("ready")),
    ];
  },
  question(step) {
    const place = `Question ${step.i + 1} of ${step.of}`;
    return asking(step, place, el("div", { class: "stimulus" }, image(data.pictures[step.image], place)), "What will the model say?");
  },
  check(step) {
    const place = `Question ${step.i + 1} of ${step.of}`;
    const told = el("p", { class: "told" }, "No picture this time: we only check that you are reading. Please choose ", el("strong", {}, data.classes[step.check.answer]), ".");
    return asking(step, place, told, "What were you asked to choose?");
  },
  done() {
    return [
      el("h1", { tabindex: -1 }, "Thank you"),
      el("p", {}, "You have answered everything. Save your answers now, and give the file to the person who invited you."),
      el("p", { class: "soft" }, `The file is called ${fileName(me())}. Until you close this page for good your answers also stay in this browser.`),
      actions(button("Save my answers", () => save(me()), true), button("Next participant", leave), hint(key("Enter"), " save")),
    ];
  },
};

function asking(step, place, shown, words) {
  const [list, by, id] = entry(step);
  const before = list.find((one) => one[by] === id)?.answer;
  const next = button("Next", () => answer(step), true);
  const choose = () => next.setAttribute("aria-disabled", chosen() === null);
  const labels = data.classes.map((name, c) =>
    el("label", {}, el("input", { type: "radio", name: "answer", value: c, checked: c === before, onchange: choose }), el("kbd", { "aria-hidden": "true" }, String(c + 1)), name));
  next.setAttribute("aria-disabled", before === undefined);
  const keys = data.classes.length < 10 ? hint(key("1"), "–", key(String(data.classes.length)), " choose ", key("Enter"), " next") : null;
  return [
    el("h1", { tabindex: -1 }, place),
    shown,
    el("fieldset", {}, el("legend", { class: "said" }, words), el("div", { class: "choices" }, ...labels)),
    actions(next, keys),
  ];
}

const chosen = () => {
  const input = main.querySelector("input[name=answer]:checked");
  return input && Number(input.value);
};

function answer(step) {
  if (chosen() === null) return main.querySelector("input[name=answer]").focus();
  note(step, { answer: chosen() });
  forward();
}

function forward() {
  const to = me().step + 1;
  if (stepsOf(store.current)[to].kind === "done") me().finished ??= new Date().toISOString();
  go(to);
}

function forth(words, step) {
  return button(words, () => {
    if (step.kind === "example") note(step, {});
    forward();
  }, true);
}

// Back among examples, never to what was asked.
function back() {
  const before = stepsOf(store.current)[me().step - 1];
  return before.kind === "example" ? button("Back", () => go(me().step - 1)) : null;
}

const arrows = (words) => hint(key("→"), ` ${words} `, ...(back() ? [key("←"), " back"] : []));

function leave() {
  store.current = null;
  history.replaceState(null, "", location.pathname + location.search);
  keep();
  draw();
}

function people() {
  const known = Object.values(store.people);
  if (!known.length) return null;
  const rows = known.map((person) =>
    el("li", {}, `${person.participant}: ${person.finished ? "finished" : "not finished"}`, button("Save these answers", () => save(person))));
  return el("section", {}, el("h2", {}, "Kept in this browser"), el("ul", { class: "kept" }, ...rows));
}

function draw() {
  const person = me();
  const steps = person ? stepsOf(store.current) : [];
  const step = person ? steps[person.step] : { kind: "welcome" };
  main.replaceChildren(...screens[step.kind](step).filter((node) => node !== null));
  const session = step.trial ? " · practice" : step.s === undefined ? "" : ` · part ${step.s + 1} of ${data.sessions.length}`;
  document.getElementById("where").textContent = data.title + session;
  document.getElementById("progress").value = person ? person.step / (steps.length - 1) : 0;
  scrollTo(0, 0);
  (step.kind === "welcome" ? main.querySelector("input") : main.querySelector("h1")).focus({ preventScroll: true });
  shownSince = performance.now();
  const after = steps[person ? person.step + 1 : 0]; // decoded before it is asked for
  const next = after?.image ?? (after?.example ?? after?.trial)?.image;
  if (next !== undefined) new Image().src = data.pictures[next];
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.id === "code") return;
  const radios = [...main.querySelectorAll("input[name=answer]")];
  if (/^[1-9]$/.test(event.key) && radios[event.key - 1]) {
    radios[event.key - 1].click();
    radios[event.key - 1].focus();
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    main.querySelector(".first")?.click();
  } else if (!radios.length && event.key === "ArrowRight") {
    if (me() && !me().finished) main.querySelector(".first")?.click();
  } else if (!radios.length && event.key === "ArrowLeft") {
    [...main.querySelectorAll(".actions .button")].find((b) => b.textContent === "Back")?.click();
  }
});

// Two tabs of the page are one: what is answered in the other one counts here.
addEventListener("storage", (event) => {
  if (event.key === KEY && event.newValue) {
    store = JSON.parse(event.newValue);
    draw();
  }
});

addEventListener("pagehide", clock.stop);

if (me()) {
  me().reloads += 1;
  keep();
}
draw();
clock.resume();
