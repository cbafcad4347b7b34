// Volumes of a test patient in four NiiVue views with one cursor.
(async () => {
  const kinds = ["input", "output", "truth", "error"];
  const at = (name) => document.getElementById(name);
  const share = (name) => Number(at(name).value) / 100;
  if (!document.createElement("canvas").getContext("webgl2")) {
    at("no-webgl").hidden = false;
    return;
  }
  const oriented = document.querySelector("main.oriented") !== null; // whether left and right are known
  const views = {};
  let place = null; // of the cursor, in voxels
  for (const kind of kinds) {
    const view = new niivue.Niivue({ logLevel: "error", backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientationTextVisible: oriented, showAllOrientationMarkers: true, fontColor: [1, 1, 1, 1], fontMinPx: 20, isRadiologicalConvention: true, multiplanarShowRender: 0, crosshairWidth: 1, crosshairWidthUnit: "percent", crosshairColor: [0.37, 0.83, 0.55, 0.8], dragAndDropEnabled: false });
    await view.attachToCanvas(at(`volume-${kind}`));
    view.opts.multiplanarLayout = 2;
    views[kind] = view;
  }
  for (const [kind, view] of Object.entries(views)) {
    view.broadcastTo(Object.values(views).filter((other) => other !== view), { "2d": true, "3d": false });
    view.onLocationChange = ({ vox }) => {
      place = vox;
      for (const other of kinds) read(other, place);
    };
  }
  const read = (kind, [x, y, z]) => {
    const volume = views[kind].volumes[0];
    const value = volume ? volume.getValue(x, y, z) : NaN;
    at(`volume-${kind}`).closest("figure").querySelector("output").textContent = Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "";
  };
  const shade = () => {
    const option = at("volume").selectedOptions[0];
    for (const [kind, view] of Object.entries(views)) {
      const [low, high] = JSON.parse(kind === "input" ? option.dataset.source : option.dataset.target);
      const [level, width, volume] = [share("volume-level"), share("volume-window"), view.volumes[0]];
      volume.cal_min = kind === "error" ? 0 : low + (high - low) * (level - width / 2);
      volume.cal_max = kind === "error" ? (high - low) * share("volume-largest") : low + (high - low) * (level + width / 2);
      view.updateGLVolume();
    }
  };
  const show = async () => {
    const option = at("volume").selectedOptions[0];
    for (const [kind, view] of Object.entries(views)) {
      for (const volume of [...view.volumes]) view.removeVolume(volume);
      view.addVolume(await niivue.NVImage.loadFromBase64({ base64: option.dataset[kind], name: `${kind}.nii.gz`, colormap: kind === "error" ? "inferno" : "gray" }));
    }
    shade();
    planes();
    for (const kind of kinds) read(kind, place || views.truth.volumes[0].dims.slice(1, 4).map((n) => n >> 1));
  };
  const planes = () => { for (const view of Object.values(views)) view.setSliceType(Number(at("planes").value)); };
  at("volume").addEventListener("change", show);
  at("planes").addEventListener("change", planes);
  for (const name of ["volume-level", "volume-window", "volume-largest"]) at(name).addEventListener("input", shade);
  await show();
})();
