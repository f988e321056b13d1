// What every page has.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const get = (id) => document.getElementById(id);

// Theme: the system's until chosen here; the choice is kept where the browser allows it.
const root = document.documentElement;
const keep = (value) => { try { if (value) localStorage.setItem("crossfire-theme", value); return localStorage.getItem("crossfire-theme"); } catch { return null; } };
const chosen = keep();
if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
get("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep(root.dataset.theme);
});
