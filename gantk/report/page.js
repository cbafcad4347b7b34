// The step slider, common to all directions; the last step's pictures are read from the page itself.
const scrub = document.getElementById("scrub");
const pictures = all("img[data-key]");
const finals = new Map(pictures.map((image) => [image, image.src]));

function show(index) {
  for (const image of pictures) {
    const frame = data.frames[image.dataset.key][image.dataset.kind][index];
    const source = frame === null ? finals.get(image) : frame[image.dataset.i];
    image.style.visibility = source ? "" : "hidden";
    if (source) image.src = source;
  }
  for (const note of all("[data-mean]")) note.textContent = data.frames[note.dataset.key][note.dataset.mean][index][note.dataset.i];
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
