// What needs the server: your photograph, and pictures of concepts made while you watch.
"use strict";
(() => {
  Object.assign(Lens, { startLive: async () => {}, photoPage: async () => null, visualizer: () => null });
})();
