// Light or dark, before the first paint: a classic script, because modules run too late. `data-theme` on the root is always one of the two.
(() => {
  const NAME = "fastrouter.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = localStorage.getItem(NAME) ?? (system.matches ? "dark" : "light");
    if (theme === document.documentElement.dataset.theme) return;
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  addEventListener("storage", apply);
  window.toggleTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    if (next === (system.matches ? "dark" : "light")) localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, next);
    apply();
  };
  apply();
})();
