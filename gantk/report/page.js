"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// The scrubber: one slider for every direction; the last step's pictures are taken from the page itself.
const scrub = document.getElementById("scrub");
const pictures = all("img[data-key]");
const finals = new Map(pictures.map((image) => [image, image.src]));
const zoom = document.getElementById("zoom");
let enlarged = null;

function show(index) {
  for (const image of pictures) {
    const frame = data.frames[image.dataset.key][image.dataset.kind][index];
    const source = frame === null ? finals.get(image) : frame[image.dataset.i];
    image.style.visibility = source ? "" : "hidden";
    if (source) image.src = source;
  }
  for (const note of all("[data-mean]")) note.textContent = data.frames[note.dataset.mean].mean[index][note.dataset.i];
  for (const line of all("[data-scores]")) line.textContent = data.scores[line.dataset.scores][index];
  const words = `step ${data.steps[index].toLocaleString("en")}`;
  document.getElementById("step").textContent = words;
  if (scrub) {
    scrub.value = index;
    scrub.setAttribute("aria-valuetext", words);
  }
  if (enlarged) fillZoom();
}

if (scrub) {
  const play = document.getElementById("play");
  const last = data.steps.length - 1;
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.classList.remove("on");
    play.setAttribute("aria-label", "Play through training");
  };
  const move = (by) => show(Math.min(last, Math.max(0, Number(scrub.value) + by)));
  scrub.addEventListener("input", () => { stop(); show(Number(scrub.value)); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.classList.add("on");
    play.setAttribute("aria-label", "Pause");
    show(Number(scrub.value) === last ? 0 : Number(scrub.value));
    timer = setInterval(() => (Number(scrub.value) === last ? stop() : move(1)), Math.max(120, Math.min(500, 9000 / (last + 1))));
  });
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const busy = event.target.closest("input, .plot, pre");
    if (!by || busy || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    stop();
    move(by);
  });
}

// A closer look at one sample; the slider keys go on working while it is open.
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
  zoom.querySelector("p").textContent = document.getElementById("step").textContent;
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

// Curves: the value under the pointer or under the arrow keys, log or linear, one curve more or less.
const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));
for (const chart of all(".chart")) {
  const { steps, values, axes } = data.charts[chart.dataset.chart];
  const plot = chart.querySelector(".plot");
  const area = chart.querySelector(".area");
  const cross = chart.querySelector(".cross");
  const dots = all(".dot", chart);
  const labels = all(".legend b", chart);
  const latest = labels.map((label) => label.textContent);
  const hidden = new Set();
  const span = Math.max(steps[steps.length - 1] - steps[0], 1);
  let at = null;

  const draw = () => {
    cross.hidden = at === null;
    chart.querySelector(".at").textContent = at === null ? "latest" : `step ${steps[at].toLocaleString("en")}`;
    labels.forEach((label, i) => { label.textContent = at === null ? latest[i] : short(values[i][at]); });
    const left = at === null ? 0 : (100 * (steps[at] - steps[0])) / span;
    cross.style.left = `${left}%`;
    const [low, high, isLog] = axes[chart.dataset.shown];
    dots.forEach((dot, i) => {
      const value = at === null ? null : values[i][at];
      const place = value === null ? NaN : (high - (isLog ? Math.log10(value) : value)) / (high - low);
      dot.hidden = hidden.has(i) || !Number.isFinite(place);
      dot.style.left = `${left}%`;
      dot.style.top = `${100 * place}%`;
    });
  };
  const nearest = (event) => {
    const box = area.getBoundingClientRect();
    const step = steps[0] + span * ((event.clientX - box.left) / box.width);
    at = steps.reduce((best, s, i) => (Math.abs(s - step) < Math.abs(steps[best] - step) ? i : best), 0);
    draw();
  };
  const leave = () => { at = null; draw(); };
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    at = at === null ? steps.length - 1 : Math.min(steps.length - 1, Math.max(0, at + by));
    draw();
  });
  for (const button of all("[data-show]", chart)) {
    button.addEventListener("click", () => {
      chart.dataset.shown = button.dataset.show;
      for (const other of all("[data-show]", chart)) other.setAttribute("aria-pressed", String(other === button));
      draw();
    });
  }
  for (const button of all(".legend button", chart)) {
    button.addEventListener("click", () => {
      const i = Number(button.dataset.curve);
      if (!hidden.delete(i)) hidden.add(i);
      button.setAttribute("aria-pressed", String(!hidden.has(i)));
      for (const group of all(`g[data-curve="${i}"]`, chart)) group.style.display = hidden.has(i) ? "none" : "";
      draw();
    });
  }
}

if (navigator.clipboard) {
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
}
