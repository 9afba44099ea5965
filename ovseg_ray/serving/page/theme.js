// Light, dark, or as the system says. Not a module: it runs before the first paint, so that nothing flashes.
"use strict";
(() => {
  const KEY = "ovseg-ray.theme";
  const ORDER = ["system", "light", "dark"];
  const root = document.documentElement;

  function read() {
    try {
      const stored = localStorage.getItem(KEY);
      return ORDER.includes(stored) ? stored : "system";
    } catch {
      return "system"; // storage can be forbidden
    }
  }

  function apply(theme) {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  let theme = read();
  apply(theme);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = `Theme: ${theme}`; };
    show();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      apply(theme);
      show();
      try {
        localStorage.setItem(KEY, theme);
      } catch { /* then it lasts as long as the page */ }
    });
  });
})();
