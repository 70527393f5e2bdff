// Starts the page: light or dark, figures, tables.

function addTheme() {
  const themes = ["", "light", "dark"], names = { "": "auto", light: "light", dark: "dark" };
  const button = html("button", { type: "button", className: "theme", title: "colors: as the system has them, light, or dark" });
  const set = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.textContent = names[theme];
    button.onclick = () => set(themes[(themes.indexOf(theme) + 1) % themes.length]);
  };
  const asked = location.hash.slice(1);
  set(themes.includes(asked) ? asked : "");
  document.querySelector("main").prepend(button);
}

addTheme();
document.body.append(tip);
for (const element of document.querySelectorAll("figure[data-figure]")) {
  const figure = new Figure(element);
  figures.push(figure);
  addSaving(figure, element);
}
for (const box of document.querySelectorAll(".table")) addTools(box);
