// Before the first paint: light, dark, or what the system says.
"use strict";
(() => {
  let kept = null;
  try {
    kept = localStorage.getItem("lens-theme");
  } catch {
    /* a page from disk may have no storage */
  }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
