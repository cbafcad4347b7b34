"use strict";
// The readers' page: shows the questions in order, keeps the answers in this browser, saves them as a CSV file.
const study = JSON.parse(document.getElementById("data").textContent);
const KEPT = `gantk study ${study.study}`;
const COUNT = study.images.length / 2; // questions, of two images each
const SAME = 250; // ms after an answer in which another one is taken for a key pressed twice
const LEVEL = 0.04, ZOOM = 1.2; // of a key
const $ = (id) => document.getElementById(id);
const canvases = [...document.querySelectorAll("canvas")];
const saves = [...document.querySelectorAll(".save")];

// ---- what is kept

let keeps = true;
let state = { reader: "", answers: [], saved: 0 }; // saved: how many of the answers are in a file
const read = () => {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT));
    if (Array.isArray(found?.answers)) state = found;
  } catch {
    keeps = false;
  }
};
const keep = () => {
  try {
    localStorage.setItem(KEPT, JSON.stringify(state));
  } catch {
    keeps = false;
    $("storage").hidden = false;
  }
};
const done = () => state.answers.length >= COUNT;

function save() {
  const quoted = `"${state.reader.replaceAll('"', '""')}"`;
  const rows = state.answers.map((each, number) => [study.study, quoted, number, each.answer, each.seconds].join(","));
  const text = ["study,reader,question,answer,seconds", ...rows, ""].join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `answers-${state.reader.replace(/[^\p{L}\p{N}]+/gu, "-")}.csv`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  state.saved = state.answers.length;
  keep();
  $("said").textContent = `Saved as ${link.download} in your downloads.`;
}

// ---- time per answer: only while the question is in sight

let since = null, spent = 0;
const tick = (on) => {
  if (since !== null) spent += performance.now() - since;
  since = on ? performance.now() : null;
};

// ---- pictures: window and zoom are the same for all of a question

const FIRST = { level: 0.5, width: 1, zoom: 1, x: 0, y: 0 }; // x, y: of the middle, as shares of the image
let view = { ...FIRST };
let shown = []; // the question's pixels, and a canvas of their size
const limited = (value, low, high) => Math.min(high, Math.max(low, value));

function decode(number) {
  const text = atob(study.images[number]);
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [study.width, study.height];
  return { pixels: Uint8Array.from(text, (c) => c.charCodeAt(0)), sheet };
}

function draw() {
  const low = view.level - view.width / 2;
  const table = Uint8ClampedArray.from({ length: 256 }, (_, value) => (255 * (value / 255 - low)) / view.width);
  shown.forEach(({ pixels, sheet }, side) => {
    const image = new ImageData(study.width, study.height);
    for (let i = 0, at = 0; i < pixels.length; i++, at += 4) {
      image.data[at] = image.data[at + 1] = image.data[at + 2] = table[pixels[i]];
      image.data[at + 3] = 255;
    }
    sheet.getContext("2d").putImageData(image, 0, 0);
    const canvas = canvases[side], ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    const scale = scaleOf(canvas) * ratio, context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.translate(canvas.width / 2, canvas.height / 2);
    context.scale(scale, scale);
    context.drawImage(sheet, -study.width * (0.5 + view.x), -study.height * (0.5 + view.y));
  });
}

const scaleOf = (canvas) => view.zoom * Math.min(canvas.clientWidth / study.width, canvas.clientHeight / study.height);

let asked = 0;
function change(next) {
  Object.assign(view, next);
  view.width = limited(view.width, 0.02, 4);
  view.level = limited(view.level, -0.5, 1.5);
  view.zoom = limited(view.zoom, 1, 16);
  const reach = 0.5 - 0.5 / view.zoom;
  [view.x, view.y] = [limited(view.x, -reach, reach), limited(view.y, -reach, reach)];
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(draw);
}
const reset = () => change(FIRST);

// ---- questions

let answeredAt = 0;

function show(name) {
  for (const each of ["start", "reading", "end"]) $(each).hidden = each !== name;
  tick(name === "reading" && !document.hidden);
}

function question() {
  const place = state.answers.length;
  spent = state.again ?? 0;
  since = null;
  if (done()) return show("end");
  shown = [2 * place, 2 * place + 1].map(decode);
  Object.assign(view, { zoom: 1, x: 0, y: 0 }); // the window stays as the reader set it
  $("progress").value = place;
  $("count").textContent = `${place + 1} of ${COUNT}`;
  $("undo").disabled = place === 0;
  show("reading");
  draw();
}

function give(answer) {
  if ($("reading").hidden || performance.now() - answeredAt < SAME) return;
  answeredAt = performance.now();
  tick(false);
  state.answers.push({ answer, seconds: Math.round(spent) / 1000 });
  delete state.again;
  keep();
  question();
}

function undo() {
  const last = state.answers.pop();
  if (!last) return;
  state.again = 1000 * last.seconds; // its time goes on
  state.saved = Math.min(state.saved, state.answers.length);
  keep();
  question();
}

function pause() {
  tick(false);
  state.again = spent;
  keep();
  start();
}

function start() {
  const count = state.answers.length;
  $("begin").textContent = count ? `Continue, ${count} of ${COUNT} answered` : "Start";
  for (const button of saves) button.hidden = !count;
  $("storage").hidden = keeps;
  $("reader").value = state.reader ?? "";
  show("start");
}

// ---- hands

$("begin").onclick = () => {
  if (!$("reader").reportValidity()) return;
  state.reader = $("reader").value.trim();
  keep();
  question();
};
$("undo").onclick = $("last").onclick = undo;
$("reset").onclick = reset;
$("pause").onclick = pause;
for (const button of saves) button.onclick = save;
for (const button of document.querySelectorAll("[data-answer]")) {
  button.onclick = () => { give(Number(button.dataset.answer)); button.blur(); };
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!$("end").hidden && event.key === "Backspace") return undo();
  if ($("reading").hidden) return;
  const side = { ArrowLeft: 0, ArrowUp: 0, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const keys = {
    a: () => change({ width: view.width * (1 - 2 * LEVEL) }),
    d: () => change({ width: view.width * (1 + 2 * LEVEL) }),
    s: () => change({ level: view.level + (LEVEL * view.width) / 2 }),
    w: () => change({ level: view.level - (LEVEL * view.width) / 2 }),
    "+": () => change({ zoom: view.zoom * ZOOM }),
    "=": () => change({ zoom: view.zoom * ZOOM }),
    "-": () => change({ zoom: view.zoom / ZOOM }),
    r: reset,
    backspace: () => event.repeat || undo(),
    escape: pause,
  };
  const act = keys[event.key.toLowerCase()];
  if (act) act();
  else if (side !== undefined) event.repeat || give(side);
  else return;
  event.preventDefault();
});

const fingers = new Map(); // pointers that are down -> where they last were
for (const canvas of canvases) {
  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.ondblclick = reset;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => fingers.delete(event.pointerId);
  canvas.onpointermove = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, event);
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    const shift = (share) => ({
      x: view.x - (share * dx) / scaleOf(canvas) / study.width, y: view.y - (share * dy) / scaleOf(canvas) / study.height,
    });
    if (other) {
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      change({ zoom: (view.zoom * apart(event)) / apart(before), ...shift(0.5) });
    } else if (event.shiftKey || event.buttons & 6) {
      change(shift(1));
    } else {
      change({ width: view.width * (1 + dx / 300), level: view.level + (view.width * dy) / 400 });
    }
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    change({ zoom: view.zoom * (event.deltaY < 0 ? ZOOM : 1 / ZOOM) });
  }, { passive: false });
}

addEventListener("resize", () => $("reading").hidden || draw());
addEventListener("storage", (event) => event.key === KEPT && (read(), start())); // the same page in another tab
document.addEventListener("visibilitychange", () => $("reading").hidden || tick(!document.hidden));
addEventListener("pagehide", () => {
  if ($("reading").hidden) return;
  tick(false);
  state.again = spent;
  keep();
});
addEventListener("beforeunload", (event) => {
  if (state.answers.length > state.saved && (done() || !keeps)) event.preventDefault();
});

read();
keep();
start();
