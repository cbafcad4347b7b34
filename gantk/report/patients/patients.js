// Test patients: pictures of 16 bits, drawn through a window; a cursor at the same place in all of a row.
const INFERNO = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const control = (name) => document.getElementById(name);
const percent = (name) => Number(control(name).value) / 100;

const GRAY = Uint8Array.from({ length: 768 }, (_, i) => i / 3);
const WARM = Uint8Array.from({ length: 768 }, (_, i) => {
  const at = (Math.floor(i / 3) / 255) * (INFERNO.length - 1);
  const k = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[k][i % 3] + (at - k) * (INFERNO[k + 1][i % 3] - INFERNO[k][i % 3]);
});

async function values(canvas) {
  const image = new Image();
  image.src = canvas.dataset.picture;
  await image.decode();
  const whole = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = whole.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data; // channels below each other
  const [low, high] = [Number(canvas.dataset.low), Number(canvas.dataset.high)];
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => low + ((high - low) * (256 * bytes[4 * i] + bytes[4 * i + 1])) / 65535);
}

function paint(canvas, pixels, low, width, colours) { // from `low`, the first of the colours, over `width` to the last
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(canvas.width, canvas.height);
  const size = canvas.width * canvas.height;
  const next = pixels.length > size ? size : 0; // to the next channel
  for (let i = 0; i < size; i += 1) {
    for (let c = 0; c < 3; c += 1) {
      const k = 3 * Math.round(255 * Math.min(1, Math.max(0, (pixels[i + c * next] - low) / width)));
      drawn.data[4 * i + c] = colours[k + c];
    }
    drawn.data[4 * i + 3] = 255;
  }
  context.putImageData(drawn, 0, 0);
}

function mean(pixels, size) { // over the channels
  if (pixels.length === size) return pixels;
  return pixels.slice(0, size).map((v, i) => (v + pixels[i + size] + pixels[i + 2 * size]) / 3);
}

for (const row of all(".case")) {
  const views = Object.fromEntries(all("canvas", row).map((canvas) => [canvas.dataset.kind, canvas]));
  const others = all("canvas", row).filter((canvas) => canvas.dataset.picture);
  const ready = Promise.all(others.map(values)).then((found) => {
    const pixels = Object.fromEntries(others.map((canvas, i) => [canvas.dataset.kind, found[i]]));
    for (const canvas of all("canvas[data-of]", row)) pixels[canvas.dataset.kind] = mean(pixels[canvas.dataset.of].map((v, i) => Math.abs(v - pixels.truth[i])), canvas.width * canvas.height);
    return pixels;
  });
  const range = (canvas) => [Number(canvas.dataset.low), Number(canvas.dataset.high) - Number(canvas.dataset.low) || 1];
  const draw = async () => {
    const pixels = await ready;
    for (const [kind, canvas] of Object.entries(views)) {
      const group = kind === "input" ? "input" : "target";
      const [low, span] = range(group === "input" ? canvas : views.truth);
      if (canvas.dataset.of) {
        paint(canvas, pixels[kind], 0, span * percent("window-error"), WARM);
      } else {
        const [level, width] = [percent(`level-${group}`), percent(`window-${group}`)];
        paint(canvas, pixels[kind], low + span * (level - width / 2), span * width, GRAY);
      }
    }
  };
  let at = null;
  const point = async () => {
    row.classList.toggle("pointed", at !== null);
    const pixels = await ready;
    for (const [kind, canvas] of Object.entries(views)) {
      const output = canvas.closest("figure").querySelector("output");
      output.textContent = at === null ? "" : `${Number(mean(pixels[kind], canvas.width * canvas.height)[at[1] * canvas.width + at[0]].toPrecision(4))} ${output.dataset.unit === "HU" ? "HU" : ""}`;
      if (at === null) continue;
      const [upright, level] = canvas.parentNode.querySelectorAll("i");
      upright.style.left = `${(100 * (at[0] + 0.5)) / canvas.width}%`;
      level.style.top = `${(100 * (at[1] + 0.5)) / canvas.height}%`;
    }
  };
  const move = (event) => {
    const canvas = event.target;
    const box = canvas.getBoundingClientRect();
    const place = (length, share) => Math.min(length - 1, Math.max(0, Math.floor(length * share)));
    at = [place(canvas.width, (event.clientX - box.left) / box.width), place(canvas.height, (event.clientY - box.top) / box.height)];
    point();
  };
  for (const canvas of Object.values(views)) {
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerdown", move);
  }
  row.addEventListener("pointerleave", () => { at = null; point(); });
  row.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [0, 0];
    if (event.key === "Escape") at = null;
    else if (x || y) {
      const { width, height } = views.truth;
      const [left, top] = at || [width >> 1, height >> 1];
      at = [Math.min(width - 1, Math.max(0, left + x)), Math.min(height - 1, Math.max(0, top + y))];
      event.preventDefault();
      event.stopPropagation();
    } else return;
    point();
  });
  for (const slider of all(".windows input")) slider.addEventListener("input", draw);
  draw();
}
for (const slider of all(".windows input")) {
  slider.addEventListener("input", () => { slider.nextElementSibling.textContent = `${slider.value} %`; });
}
