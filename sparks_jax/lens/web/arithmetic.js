// What can be computed here from the arrays of a class; exact where the rest of the network is affine.
"use strict";
(() => {
  /** Logits of an image when share removed[k] of concept k is taken away. */
  function logitsWithout(one, row, removed) {
    return one.rivals.map((_, j) => {
      let logit = one.logitOf(row, j);
      for (let k = 0; k < one.k; k++) logit -= removed[k] * one.amountOf(row, k) * one.slopeOf(k, j);
      return logit;
    });
  }

  /**
   * The smallest edit, Σ of removed shares, with which rival j overtakes the class: a continuous knapsack, so taking
   * the concepts by falling gain is optimal. Null if removing everything that helps does not suffice.
   */
  function smallestEdit(one, row, j) {
    const removed = new Array(one.k).fill(0);
    let gap = one.logitOf(row, 0) - one.logitOf(row, j);
    if (gap < 0) return { removed, total: 0 };
    const gains = removed.map((_, k) => ({ k, gain: one.amountOf(row, k) * (one.slopeOf(k, 0) - one.slopeOf(k, j)) }));
    gains.sort((a, b) => b.gain - a.gain);
    const margin = 1e-6 * Math.max(1, Math.abs(gap)); // so that it is ahead, not level
    for (const { k, gain } of gains) {
      if (gain <= 0) break;
      removed[k] = Math.min(1, (gap + margin) / gain);
      gap -= removed[k] * gain;
      if (gap < 0) return { removed, total: removed.reduce((a, b) => a + b, 0) };
    }
    return null;
  }

  /** The logit of the class while concepts go, those that add most first: k + 1 numbers. */
  function deletion(one, row) {
    const order = Array.from({ length: one.k }, (_, k) => k).sort(
      (a, b) => one.importanceOf(row, b) - one.importanceOf(row, a),
    );
    const values = [one.logitOf(row, 0)];
    for (const k of order) values.push(values[values.length - 1] - one.amountOf(row, k) * one.slopeOf(k, 0));
    return { order, values };
  }

  /** The share of the images of the class in which a concept adds less than in this one. */
  function rank(one, k, value) {
    let below = 0;
    for (let row = 0; row < one.n; row++) below += one.importanceOf(row, k) < value;
    return one.n ? below / one.n : 0;
  }

  /** Five quantiles of what a concept adds, for a strip behind its bar. */
  function quantiles(one, k) {
    const values = Float32Array.from({ length: one.n }, (_, row) => one.importanceOf(row, k)).sort();
    return [0.05, 0.25, 0.5, 0.75, 0.95].map((q) => values[Math.min(one.n - 1, Math.floor(q * one.n))] ?? 0);
  }

  /** Wilson's interval for k of n, at 95 %. */
  function wilson(k, n) {
    if (n === 0) return { value: null, low: 0, high: 1, number: k, total: n };
    const z = 1.959964,
      p = k / n,
      d = 1 + (z * z) / n;
    const centre = (p + (z * z) / (2 * n)) / d,
      half = (z / d) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
    return { value: p, low: Math.max(0, centre - half), high: Math.min(1, centre + half), number: k, total: n };
  }

  const softmax = (logits) => {
    const most = Math.max(...logits),
      odds = logits.map((logit) => Math.exp(logit - most)),
      sum = odds.reduce((a, b) => a + b, 0);
    return odds.map((odd) => odd / sum);
  };

  Object.assign(Lens, { logitsWithout, smallestEdit, deletion, rank, quantiles, wilson, softmax });
})();
