"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Charts: shows values at the pointer or by arrow keys, hides and shows curves.
const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−"));
for (const chart of all(".chart")) {
  const { steps, values, axis, x } = data.charts[chart.dataset.chart];
  const plot = chart.querySelector(".plot");
  const area = chart.querySelector(".area");
  const cross = chart.querySelector(".cross");
  const dots = all(".dot", chart);
  const labels = all(".legend b", chart);
  const rest = chart.querySelector(".at").textContent;
  const latest = labels.map((label) => label.textContent);
  const hidden = new Set();
  const span = steps[steps.length - 1] - steps[0] || 1;
  let at = null;

  const draw = () => {
    cross.hidden = at === null;
    chart.querySelector(".at").textContent = at === null ? rest : x.replace("{}", steps[at].toLocaleString("en"));
    labels.forEach((label, i) => { label.textContent = at === null ? latest[i] : short(values[i][at]); });
    const left = at === null ? 0 : (100 * (steps[at] - steps[0])) / span;
    cross.style.left = `${left}%`;
    const [low, high] = axis;
    dots.forEach((dot, i) => {
      const value = at === null ? null : values[i][at];
      const place = value === null ? NaN : (high - value) / (high - low);
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
