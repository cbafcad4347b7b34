// Reloads the page of a running training, and restores scroll position, sliders, folded sections and chart settings.
const live = document.getElementById("live");
const left = history.state || {};
const since = left.written === live?.dataset.written ? left.since : Date.now(); // when this state of it was first seen
const named = (element) => { // without the figures in it, which change
  const words = [...element.childNodes].filter((node) => node.nodeName !== "B").map((node) => node.textContent).join("");
  const fold = element.nodeName === "SUMMARY";
  const title = element.closest(".chart, article, section")?.querySelector("h2, h3, h4")?.textContent;
  return `${title}: ${fold ? words.replace(/\d+/g, "") : words}`;
};
const value = (slider) => (slider.id === "scrub" && slider.value === slider.max ? "last" : slider.value);
const leave = () => history.replaceState({
  written: live.dataset.written,
  since,
  scroll: scrollY,
  open: all("details[open] > summary").map(named),
  sliders: Object.fromEntries(all("input[type=range]").map((slider) => [slider.id, value(slider)])),
  pressed: Object.fromEntries(all("button[aria-pressed]").map((b) => [named(b), b.getAttribute("aria-pressed")])),
}, "");

if (left.open) {
  for (const summary of all("details > summary")) summary.parentNode.open = left.open.includes(named(summary));
  for (const slider of all("input[type=range]")) {
    if (![undefined, "last", slider.value].includes(left.sliders[slider.id])) {
      slider.value = left.sliders[slider.id];
      slider.dispatchEvent(new Event("input"));
    }
  }
  for (const button of all("button[aria-pressed]")) {
    const before = left.pressed[named(button)];
    const differs = before && before !== button.getAttribute("aria-pressed");
    if (differs && (before === "true" || !button.dataset.show)) button.click();
  }
  scrollTo({ top: left.scroll, behavior: "instant" });
}
if (live) {
  history.scrollRestoration = "manual";
  const written = 1000 * Number(live.dataset.written);
  const usual = 1000 * Number(live.dataset.after);
  const patience = Math.max(600e3, 5 * usual); // after so long without news, the run counts as killed
  const lost = () => Math.max(Date.now() - written, Date.now() - since) > patience;
  let held = false;
  live.querySelector("time").textContent = new Date(written).toLocaleTimeString();
  addEventListener("pointerdown", () => { held = true; });
  addEventListener("pointerup", () => { held = false; });
  addEventListener("pagehide", leave);
  const again = () => {
    if (lost()) {
      live.classList.add("lost");
      live.textContent = `No news since ${new Date(written).toLocaleString()}: the training was killed, or it hangs. `
        + "This page has stopped reloading. If the training still runs, reload the page by hand. If not, resume it with gantk resume.";
    } else if (held || document.querySelector("dialog[open]")) {
      setTimeout(again, 1000);
    } else {
      leave();
      location.reload();
    }
  };
  setTimeout(again, lost() ? 0 : Math.min(15e3, Math.max(2e3, usual / 2)));
}
