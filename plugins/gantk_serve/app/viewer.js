// Input, output and difference in NiiVue views with one cursor and one gray window.
(() => {
  let views = {}; // kind -> Niivue
  let image = null;
  const at = (name) => document.querySelector(`#viewer [data-at="${name}"]`);
  const share = (name) => Number(at(name).value) / 100;

  const names = (kind, largest = 100) => ({ input: `${image.source} (input)`, output: `${image.to} (synthetic)`, difference: `output − input: what the model changed, 0 to ${Math.round(largest)} % of the gray window` })[kind] || kind;

  const build = () => {
    document.getElementById("viewer").innerHTML = `
      <div class="chooser">
        <label data-at="three">planes <select data-at="planes"><option value="3">three</option><option value="0">axial</option><option value="1">coronal</option><option value="2">sagittal</option></select></label>
        <span data-at="slice"></span>
        <label>level <input type="range" data-at="level" min="0" max="100" value="50"></label>
        <label>window <input type="range" data-at="window" min="1" max="100" value="100"></label>
        <label>largest difference <input type="range" data-at="largest" min="1" max="100" value="100"></label>
      </div>
      <div class="volumes"></div>
      <p class="aside" data-at="aside"></p>`;
    at("planes").addEventListener("change", planes);
    for (const name of ["level", "window", "largest"]) at(name).addEventListener("input", shade);
  };

  const canvases = async (kinds) => {
    const volumes = document.querySelector("#viewer .volumes");
    volumes.replaceChildren();
    for (const view of Object.values(views)) view.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    views = {};
    for (const kind of kinds) {
      const figure = document.createElement("figure");
      figure.innerHTML = `<figcaption><span></span><output></output></figcaption><div><canvas data-kind="${kind}"></canvas></div>`;
      figure.querySelector("span").textContent = names(kind);
      volumes.append(figure);
      const view = new niivue.Niivue({ logLevel: "error", backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientationTextVisible: false, showAllOrientationMarkers: true, fontColor: [1, 1, 1, 1], fontMinPx: 14, multiplanarPadPixels: 12, isRadiologicalConvention: true, multiplanarShowRender: 0, crosshairWidth: 0.5, crosshairWidthUnit: "percent", crosshairColor: [0.37, 0.83, 0.55, 0.8], dragAndDropEnabled: false });
      await view.attachToCanvas(figure.querySelector("canvas"));
      view.opts.multiplanarLayout = 2;
      views[kind] = view;
    }
    for (const view of Object.values(views)) {
      view.broadcastTo(Object.values(views).filter((other) => other !== view), { "2d": true, "3d": false });
      view.onLocationChange = ({ vox }) => tell(vox);
    }
  };

  const read = (kind, [x, y, z]) => {
    const value = views[kind].volumes[0]?.getValue(x, y, z);
    const output = views[kind].canvas.closest("figure").querySelector("output");
    output.textContent = Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "";
  };

  const tell = (place) => {
    for (const kind of Object.keys(views)) read(kind, place);
    at("slice").textContent = image.slices < 2 ? "" : `slice ${place[2] * image.thin + 1} of ${image.slices}`;
  };

  const shade = () => {
    for (const [kind, view] of Object.entries(views)) {
      const [low, high] = image.windows[kind], volume = view.volumes[0];
      const middle = low + (high - low) * share("level"), half = ((high - low) * share("window")) / 2;
      volume.cal_min = kind === "difference" ? 0 : middle - half;
      volume.cal_max = kind === "difference" ? high * share("largest") : middle + half;
      view.canvas.closest("figure").querySelector("span").textContent = names(kind, volume.cal_max);
      view.updateGLVolume();
    }
  };

  const planes = () => {
    for (const view of Object.values(views)) {
      view.opts.isOrientationTextVisible = image.oriented;
      view.setSliceType(image.slices < 2 ? 0 : Number(at("planes").value));
    }
  };

  const load = async () => {
    const kinds = Object.keys(image.windows);
    if (kinds.join() !== Object.keys(views).join()) await canvases(kinds);
    at("three").hidden = image.slices < 2;
    at("planes").value = image.slices < 16 ? 0 : 3; // side views of a few slices show little
    for (const [kind, view] of Object.entries(views)) {
      for (const volume of [...view.volumes]) view.removeVolume(volume);
      const answer = await fetch(`${image.base}${kind}.nii`, { cache: "no-store" });
      if (!answer.ok) throw new Error("it was deleted. Translate the scan again.");
      view.addVolume(await niivue.NVImage.new(await answer.arrayBuffer(), `${kind}.nii`, kind === "difference" ? "inferno" : "gray"));
    }
    shade();
    // between two voxels a view would show their mean
    const middle = views.input.volumes[0].dims.slice(1, 4).map((n) => (n - 1) >> 1);
    for (const view of Object.values(views)) view.scene.crosshairPos = view.vox2frac(middle);
    planes();
    tell(middle);
    const thin = image.thin > 1 ? ` Every ${image.thin}th voxel along each side is shown; the saved file holds them all.` : "";
    at("aside").textContent = `Click or drag to move the cursor of all images.${image.slices < 2 ? "" : " Scroll to change the slice. The patient's right is on the left."}${thin}`;
    document.getElementById("viewer").dataset.ready = "yes";
  };

  window.gantkShow = async (made) => {
    const viewer = document.getElementById("viewer");
    viewer.hidden = !made;
    delete viewer.dataset.ready;
    if (viewer.hidden) return;
    image = made;
    if (!document.createElement("canvas").getContext("webgl2")) {
      viewer.textContent = "This browser does not support WebGL 2, which the viewer needs. You can still save the result.";
      return;
    }
    if (!at("planes")) build();
    try {
      await load();
    } catch (error) {
      at("aside").textContent = `The result cannot be shown: ${error.message}`;
    }
  };
})();
