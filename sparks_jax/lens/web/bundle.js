// The files of a bundle: fetched over http, or loaded as scripts where a page from disk may not fetch.
"use strict";
(() => {
  const scripts = document.documentElement.dataset.files === "scripts";
  const waiting = new Map();
  const kept = new Map();
  const MOST = 40; // files of classes that stay in memory

  window.sparksLens = (name, value) => {
    const one = waiting.get(name);
    waiting.delete(name);
    if (one) one(value);
  };

  function asScript(name) {
    return new Promise((done, failed) => {
      const script = document.createElement("script");
      waiting.set(name, done);
      script.src = `${name}.js`;
      script.onerror = () => {
        waiting.delete(name);
        failed(new Error(`${name} is missing`));
      };
      script.onload = () => {
        script.remove();
        if (waiting.delete(name)) failed(new Error(`${name} holds something else`));
      };
      document.head.append(script);
    });
  }

  async function asFile(name) {
    const answer = await fetch(name);
    if (!answer.ok)
      throw new Error(answer.status === 404 ? `${name} is missing` : `${name}: the server said ${answer.status}`);
    return name.endsWith(".json") ? answer.json() : answer.arrayBuffer();
  }

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  /** A file, parsed: JSON, or the bytes of arrays. Each is read once. */
  function load(name) {
    if (!kept.has(name)) {
      const read = scripts
        ? asScript(name).then((value) => (typeof value === "string" && !name.endsWith(".json") ? bytes(value) : value))
        : asFile(name);
      kept.set(name, read);
      read.catch(() => kept.delete(name));
      if (kept.size > MOST)
        for (const old of kept.keys())
          if (/\/(classes|arrays\/\d)/.test(old)) {
            kept.delete(old);
            break;
          }
    }
    return kept.get(name);
  }

  const size = (part) => part.shape.reduce((a, b) => a * b, 1);
  const cut = (buffer, part) => new Float32Array(buffer, 4 * part.offset, size(part));

  async function arraysOf(place, file) {
    const buffer = await load(place + file.file);
    const found = {};
    for (const part of file.parts) found[part.name] = { values: cut(buffer, part), shape: part.shape };
    return found;
  }

  const check = (record, name) => {
    if (record.format !== "sparks-lens") throw new Error(`${name} is not a part of a bundle of Lens`);
    if (record.version > 1) throw new Error(`${name} is of a later version than this page`);
    return record;
  };

  const readLens = async () => check(await load("lens.json"), "lens.json");

  /** An index, with `place`, the folder that its names are relative to. */
  async function readAtlas(id, { again = false } = {}) {
    const lens = await readLens();
    const entry = lens.atlases.find((one) => one.id === id);
    if (!entry) throw new Error(`There is no atlas “${id}” in this bundle.`);
    if (again && !scripts) kept.delete(entry.file);
    const record = check(await load(entry.file), entry.file);
    return {
      ...record,
      place: entry.file.replace(/[^/]*$/, ""),
      byLabel: new Map(record.classes.map((one, i) => [one.label, i])),
    };
  }

  const POINT = ["x", "y", "concept", "cluster", "label", "correct", "score", "explained", "tile", "image"];

  /** A class with its arrays: `at(name, row)` for columns of points, `importance(row, k)` and so on. */
  async function readClass(atlas, entry) {
    const name = atlas.place + entry.file;
    const record = check(await load(name), name);
    const arrays = await arraysOf(atlas.place, record.arrays);
    const [n, k, m] = [record.num_images, record.concepts.length, record.rivals.length];
    const width = arrays.points.shape[1];
    const point = (column, row) => arrays.points.values[row * width + POINT.indexOf(column)];
    return {
      ...record,
      entry,
      place: atlas.place,
      n,
      k,
      m,
      raw: arrays,
      point,
      importanceOf: (row, concept) => arrays.importances.values[row * k + concept],
      amountOf: (row, concept) => arrays.amounts.values[row * k + concept],
      logitOf: (row, rival) => arrays.logits.values[row * m + rival],
      slopeOf: (concept, rival) => arrays.slopes.values[concept * m + rival],
      nameOf: (row) => record.names?.[row] ?? `image ${point("image", row) + 1}`,
      topOf: (row) => {
        const t = arrays.top_labels.shape[1];
        return Array.from({ length: t }, (_, i) => ({
          label: arrays.top_labels.values[row * t + i],
          probability: arrays.top_probabilities.values[row * t + i],
        })).map((one) => ({ ...one, name: atlas.class_names[one.label] ?? `class ${one.label}` }));
      },
      map: (kind, exhibit, concept) => {
        const {
          values,
          shape: [, , height, width],
        } = arrays[kind];
        const start = (exhibit * k + concept) * height * width;
        return { values: values.subarray(start, start + height * width), height, width };
      },
    };
  }

  /** All concepts of an atlas, and their nearest in other classes; null while it is being built. */
  async function readConcepts(atlas) {
    if (!atlas.arrays) return null;
    const { concepts, similar } = await arraysOf(atlas.place, atlas.arrays);
    const [n, width] = concepts.shape;
    const get = (row, column) => concepts.values[row * width + column];
    const rows = new Map();
    for (let row = 0; row < n; row++) rows.set(`${get(row, 0)} ${get(row, 1)}`, row);
    const pairs = similar.shape[1] / 2;
    return {
      n,
      get,
      rowOf: (place, concept) => rows.get(`${place} ${concept}`),
      similarTo: (row) =>
        Array.from({ length: pairs }, (_, i) => ({
          row: similar.values[row * 2 * pairs + 2 * i],
          cosine: similar.values[row * 2 * pairs + 2 * i + 1],
        })).filter((one) => one.row >= 0),
    };
  }

  Object.assign(Lens, { load, readLens, readAtlas, readClass, readConcepts });
})();
