import { defineConfig } from "vite";

export default defineConfig({
  // Relative addresses: the same files are served at / and from any folder of a static export.
  base: "./",
  build: {
    outDir: "../src/fathom/serve/web",
    emptyOutDir: true,
    target: "es2022",
    // No data: addresses; every asset is a file that may be cached.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1500,
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
});
