// The console's only script: the theme, questions before a change, and the overview's refresh while it is looked at.
"use strict";

const REFRESH_MILLISECONDS = 5000;

const themeButton = document.getElementById("theme");
if (themeButton) {
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { themeButton.textContent = isDark() ? "Light theme" : "Dark theme"; };
  themeButton.hidden = false;
  name();
  themeButton.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    document.cookie = `penstock_theme=${theme}; path=/console; max-age=31536000; samesite=strict`;
    name();
  });
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

const live = document.getElementById("live");
const liveOn = document.getElementById("live-on");
if (live && liveOn) {
  document.getElementById("live-switch").hidden = false;
  const refresh = async () => {
    const isRead = live.contains(document.activeElement) || !getSelection().isCollapsed;
    if (document.visibilityState !== "visible" || !liveOn.checked || isRead) return;
    try {
      const response = await fetch(live.dataset.source, { headers: { accept: "text/html" } });
      if (response.status === 403) location.assign("/console/sign-in");
      else if (response.ok) live.innerHTML = await response.text();
    } catch {
      // the gateway restarts or is gone: what is shown stays, and the next look tries again
    }
  };
  setInterval(refresh, REFRESH_MILLISECONDS);
}
