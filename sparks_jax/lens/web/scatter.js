// Points on a canvas, as many as there are: stamped into its pixels, because a call for each of 50,000 is too slow.
"use strict";
(() => {
  const { h, palette, COLOURS } = Lens;

  // A shape for each concept, so that colours are not needed: distance from the centre at which its border is.
  const SHAPES = [
    (x, y) => Math.hypot(x, y), // disc
    (x, y) => Math.max(Math.abs(x), Math.abs(y)) * 1.12, // square
    (x, y) => (Math.abs(x) + Math.abs(y)) * 0.8, // diamond
    (x, y) => Math.max(-y * 1.25, 0.9 * Math.abs(x) + 0.55 * y) * 1.05, // triangle, down
    (x, y) => Math.max(y * 1.25, 0.9 * Math.abs(x) - 0.55 * y) * 1.05, // triangle, up
    (x, y) => Math.min(Math.max(Math.abs(x) * 2.6, Math.abs(y)), Math.max(Math.abs(y) * 2.6, Math.abs(x))), // cross
  ];

  /** The pixels that a shape covers, from its centre, and how much of each, 1 to 256. */
  function stamp(shape, radius) {
    const half = Math.ceil(radius),
      dx = [],
      dy = [],
      cover = [];
    for (let y = -half; y <= half; y++)
      for (let x = -half; x <= half; x++) {
        const a = Math.round(256 * Math.max(0, Math.min(1, radius + 0.5 - shape(x, y))));
        if (a > 8) {
          dx.push(x);
          dy.push(y);
          cover.push(a);
        }
      }
    return { half, dx: Int32Array.from(dx), dy: Int32Array.from(dy), cover: Int32Array.from(cover) };
  }

  /**
   * A plane of points. points: {n, x, y, kind} with kind the number of a concept; tip(row) is shown above the one
   * that is pointed at.
   * Drag moves, the wheel and two fingers zoom, with the lasso on a drag selects; arrows, + and − do the same.
   */
  function scatter(points, { label, tip: about, onselect, onpick, height = 460 }) {
    const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": label });
    const ring = h("canvas", { class: "over", "aria-hidden": "true" });
    const tip = h("div", { class: "tip", hidden: true });
    const box = h("div", { class: "plane" }, canvas, ring, tip);
    const view = { x: 0, y: 0, zoom: 1 };
    let [wide, high, scale] = [0, 0, 1],
      asked = 0,
      selected = null,
      lasso = null,
      mode = "lasso",
      visible = null,
      marked = -1,
      frames = 0;
    let colours = palette(),
      grid = null,
      image = null,
      pixels = null;

    const screenX = (x) => wide / 2 + (x - view.x) * view.zoom * 0.46 * wide;
    const screenY = (y) => high / 2 - (y - view.y) * view.zoom * 0.46 * high;
    const worldX = (x) => view.x + (x - wide / 2) / (view.zoom * 0.46 * wide);
    const worldY = (y) => view.y - (y - high / 2) / (view.zoom * 0.46 * high);

    function resize() {
      const { width } = box.getBoundingClientRect();
      if (!width) return;
      scale = Math.min(2, window.devicePixelRatio || 1);
      [wide, high] = [Math.round(width), Math.round(Math.min(height, Math.max(300, width * 0.72)))];
      for (const one of [canvas, ring]) {
        [one.width, one.height] = [wide * scale, high * scale];
        one.style.height = `${high}px`;
      }
      draw();
    }

    const draw = () => {
      if (!asked) asked = requestAnimationFrame(paint);
    };

    function paint() {
      asked = 0;
      frames++;
      const context = canvas.getContext("2d"),
        [w, ht] = [canvas.width, canvas.height];
      if (!w) return;
      if (!image || image.width !== w || image.height !== ht) {
        image = context.createImageData(w, ht);
        pixels = new Uint32Array(image.data.buffer);
      }
      const opaque = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
      pixels.fill(opaque(colours.card));
      const radius =
        Math.max(1.7, Math.min(5.5, 5.5 - 1.5 * Math.log10(points.n / 300))) *
        scale *
        Math.min(2, Math.sqrt(view.zoom));
      const stamps = SHAPES.map((shape) => stamp(shape, radius)),
        last = SHAPES.length - 1;
      const tints = Array.from({ length: last + 1 }, (_, k) => opaque(colours.concept(k < last ? k : -1)));
      const { x: xs, y: ys, kind } = points,
        [sx, sy] = [view.zoom * 0.46 * wide * scale, view.zoom * 0.46 * high * scale];
      const [ox, oy] = [(wide / 2) * scale - view.x * sx, (high / 2) * scale + view.y * sy];
      // Those that are not selected first, so that the others lie above them.
      for (const above of selected ? [0, 1] : [1]) {
        const strength = above ? 218 : 36;
        for (let i = 0; i < points.n; i++) {
          if ((visible && !visible[i]) || (selected && selected[i] !== above)) continue;
          const px = Math.round(ox + xs[i] * sx),
            py = Math.round(oy - ys[i] * sy),
            k = kind[i] >= 0 && kind[i] < last ? kind[i] : last;
          const { half, dx, dy, cover } = stamps[k],
            tint = tints[k],
            rb = tint & 0xff00ff,
            g = tint & 0x00ff00;
          if (px < half || py < half || px >= w - half || py >= ht - half) continue;
          for (let j = 0; j < cover.length; j++) {
            // Red and blue together, then green: two products for a pixel.
            const at = (py + dy[j]) * w + px + dx[j],
              a = (cover[j] * strength) >> 8,
              under = pixels[at],
              ub = under & 0xff00ff,
              ug = under & 0x00ff00;
            pixels[at] =
              0xff000000 | ((ub + (((rb - ub) * a) >> 8)) & 0xff00ff) | ((ug + (((g - ug) * a) >> 8)) & 0x00ff00);
          }
        }
      }
      context.putImageData(image, 0, 0);
      overlay();
    }

    function overlay() {
      const context = ring.getContext("2d");
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.clearRect(0, 0, wide, high);
      const ink = `rgb(${colours.ink.join(" ")})`;
      if (lasso && lasso.length > 1) {
        context.beginPath();
        lasso.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.closePath();
        [context.strokeStyle, context.lineWidth, context.fillStyle] = [
          ink,
          1.5,
          `rgb(${colours.soft.join(" ")} / 14%)`,
        ];
        context.setLineDash([5, 4]);
        context.fill();
        context.stroke();
        context.setLineDash([]);
      }
      if (marked >= 0) {
        context.beginPath();
        context.arc(screenX(points.x[marked]), screenY(points.y[marked]), 9, 0, 2 * Math.PI);
        [context.strokeStyle, context.lineWidth] = [ink, 2.2];
        context.stroke();
      }
    }

    // Cells of the plane, so that finding what is under the pointer looks at few points.
    function cells() {
      if (grid) return grid;
      grid = new Map();
      for (let i = 0; i < points.n; i++) {
        const id = Math.floor((points.x[i] + 1) * 32) * 100 + Math.floor((points.y[i] + 1) * 32);
        (grid.get(id) ?? grid.set(id, []).get(id)).push(i);
      }
      return grid;
    }

    function nearest(px, py, reach = 14) {
      let [best, most] = [-1, reach * reach];
      const [x0, x1] = [worldX(px - reach), worldX(px + reach)],
        [y0, y1] = [worldY(py + reach), worldY(py - reach)];
      for (let a = Math.floor((x0 + 1) * 32); a <= Math.floor((x1 + 1) * 32); a++)
        for (let b = Math.floor((y0 + 1) * 32); b <= Math.floor((y1 + 1) * 32); b++) {
          for (const i of cells().get(a * 100 + b) ?? []) {
            if (visible && !visible[i]) continue;
            const d = (screenX(points.x[i]) - px) ** 2 + (screenY(points.y[i]) - py) ** 2;
            if (d < most) [best, most] = [i, d];
          }
        }
      return best;
    }

    const inside = (polygon, x, y) => {
      let odd = false;
      for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
        const [xi, yi] = polygon[i],
          [xj, yj] = polygon[j];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
      }
      return odd;
    };

    function select(rows) {
      selected = rows && new Uint8Array(points.n);
      if (rows) for (const row of rows) selected[row] = 1;
      draw();
    }

    function zoom(by, px = wide / 2, py = high / 2) {
      const [x, y] = [worldX(px), worldY(py)];
      view.zoom = Math.max(0.8, Math.min(60, view.zoom * by));
      view.x += x - worldX(px);
      view.y += y - worldY(py);
      draw();
    }

    const fingers = new Map();
    const placeOf = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const spread = () => {
      const [[a, b], [c, d]] = [...fingers.values()];
      return Math.hypot(a - c, b - d);
    };

    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, placeOf(event));
      lasso = fingers.size === 1 && mode !== "move" && !event.shiftKey ? [placeOf(event)] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const to = placeOf(event),
        from = fingers.get(event.pointerId);
      if (!from) {
        mark(nearest(...to));
        return;
      }
      if (fingers.size === 2) {
        const before = spread();
        fingers.set(event.pointerId, to);
        if (before > 0) zoom(spread() / before, ...to);
        return;
      }
      if (lasso) {
        lasso.push(to);
        if (mode === "lasso") overlay();
        return;
      }
      view.x -= (to[0] - from[0]) / (view.zoom * 0.46 * wide);
      view.y += (to[1] - from[1]) / (view.zoom * 0.46 * high);
      fingers.set(event.pointerId, to);
      draw();
    });
    const up = (event) => {
      if (!fingers.delete(event.pointerId)) return;
      const drawn = lasso;
      lasso = null;
      if (!drawn) return;
      const size = drawn.reduce(
        (most, [x, y]) => Math.max(most, Math.abs(x - drawn[0][0]), Math.abs(y - drawn[0][1])),
        0,
      );
      if (size < 6) {
        const row = nearest(...drawn[0]);
        overlay();
        if (row >= 0) onpick(row);
        else {
          select(null);
          onselect(null);
        }
        return;
      }
      if (mode === "browse") {
        overlay();
        return;
      }
      const polygon = drawn.map(([x, y]) => [worldX(x), worldY(y)]),
        rows = [];
      for (let i = 0; i < points.n; i++)
        if ((!visible || visible[i]) && inside(polygon, points.x[i], points.y[i])) rows.push(i);
      select(rows.length ? rows : null);
      onselect(rows.length ? rows : null);
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", (event) => {
      fingers.delete(event.pointerId);
      lasso = null;
      draw();
    });
    canvas.addEventListener("pointerleave", () => mark(-1));
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        zoom(Math.exp(-event.deltaY / 400), ...placeOf(event));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const step = 0.12 / view.zoom;
      const act = {
        ArrowLeft: () => {
          view.x -= step;
        },
        ArrowRight: () => {
          view.x += step;
        },
        ArrowUp: () => {
          view.y += step;
        },
        ArrowDown: () => {
          view.y -= step;
        },
        "+": () => zoom(1.3),
        "=": () => zoom(1.3),
        "-": () => zoom(1 / 1.3),
        0: () => Object.assign(view, { x: 0, y: 0, zoom: 1 }),
        Escape: () => {
          select(null);
          onselect(null);
        },
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      act();
      draw();
    });

    function mark(row) {
      if (row === marked) return;
      marked = row;
      canvas.style.cursor = row >= 0 ? "pointer" : "crosshair";
      overlay();
      tip.hidden = row < 0;
      if (tip.hidden) return;
      tip.replaceChildren(about(row));
      Object.assign(tip.style, { left: `${screenX(points.x[row])}px`, top: `${screenY(points.y[row])}px` });
    }

    const watch = new ResizeObserver(resize);
    watch.observe(box);
    const recolour = () => {
      colours = palette();
      draw();
    };
    document.addEventListener("lens-theme", recolour);
    box.lens = {
      zoom,
      select,
      mark,
      reset: () => {
        Object.assign(view, { x: 0, y: 0, zoom: 1 });
        draw();
      },
      // Fingers scroll the page and tap points, until they are told to select or to move.
      mode: (to) => {
        mode = to;
        canvas.style.touchAction = to === "browse" ? "pan-y pinch-zoom" : "none";
      },
      filter: (rows) => {
        visible = rows;
        draw();
      },
      frames: () => frames,
      paint,
      screen: (row) => [screenX(points.x[row]), screenY(points.y[row])],
      release: () => {
        watch.disconnect();
        document.removeEventListener("lens-theme", recolour);
        cancelAnimationFrame(asked);
      },
    };
    return box;
  }

  Object.assign(Lens, { scatter });
})();
