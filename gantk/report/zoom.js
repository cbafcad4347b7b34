// Enlarges one sample; the keys of the step slider, if there is one, keep working meanwhile.
const zoom = document.getElementById("zoom");
let enlarged = null;

function fillZoom() {
  const heads = all(".heads span", enlarged.closest(".columns") || document.createElement("p"));
  zoom.querySelector("div").replaceChildren(...all("img", enlarged).map((image, i) => {
    const figure = document.createElement("figure");
    const copy = image.cloneNode();
    const caption = document.createElement("figcaption");
    caption.textContent = heads[i] ? heads[i].firstChild.textContent : "";
    figure.append(copy, caption);
    return figure;
  }));
  const step = document.getElementById("step");
  zoom.querySelector("p").textContent = step ? step.textContent : enlarged.closest("[data-title]").dataset.title;
}
for (const sample of all(".sample")) {
  const open = () => { enlarged = sample; fillZoom(); zoom.showModal(); };
  sample.addEventListener("click", open);
  sample.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
  });
}
if (zoom) {
  zoom.addEventListener("close", () => { enlarged = null; });
  zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
}
