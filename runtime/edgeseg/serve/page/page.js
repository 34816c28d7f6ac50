"use strict";

const part = (id) => document.getElementById(id);
let latest = 0; // a second picture overtakes the first: only the newest answer is shown

async function segment(file) {
  const mine = ++latest;
  part("error").hidden = true;
  part("status").textContent = `Segmenting ${file.name || "the picture"} …`;
  const start = performance.now();
  try {
    const answer = await fetch("segment?format=json", { method: "POST", body: file });
    const result = await answer.json();
    if (mine !== latest) return;
    if (!answer.ok) throw new Error(result.error);
    show(file, result, performance.now() - start);
  } catch (error) {
    if (mine === latest) fail(error);
  }
}

function fail(error) {
  const lost = error instanceof TypeError || error instanceof SyntaxError;
  part("status").textContent = "";
  part("result").hidden = true;
  part("error").textContent = lost ? "The server did not answer; is it still running?" : error.message;
  part("error").hidden = false;
}

function show(file, result, ms) {
  const mask = part("mask");
  const original = part("original");
  URL.revokeObjectURL(original.src);
  original.hidden = false;
  mask.classList.remove("alone");
  original.src = URL.createObjectURL(file);
  mask.src = `data:image/png;base64,${result.mask_png}`;
  part("save").href = mask.src;
  part("legend").replaceChildren(...Object.entries(result.coverage).map(
    ([name, share]) => entry(name, share, result.colors[name])));
  const network = result.timings_ms.compute.toFixed(1);
  part("status").textContent = `${result.width} × ${result.height} pixels in ${ms.toFixed(0)} ms, ` +
    `of which the network took ${network} ms: ${result.model}, ${result.variant} on ${result.backend}`;
  part("result").hidden = false;
}

function entry(name, share, color) {
  const item = document.createElement("li");
  const swatch = document.createElement("i");
  const label = document.createElement("span");
  const number = document.createElement("span");
  swatch.style.backgroundColor = color;
  label.textContent = name;
  number.textContent = share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
  item.append(swatch, label, number);
  return item;
}

function setOpacity() {
  part("mask").style.opacity = part("opacity").value / 100;
  part("percent").textContent = `${part("opacity").value} %`;
}

part("picture").addEventListener("change", (event) => {
  if (event.target.files.length) segment(event.target.files[0]);
});
part("original").addEventListener("error", () => { // TIFF: browsers cannot show it, the mask they can
  part("original").hidden = true;
  part("mask").classList.add("alone");
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // or the browser leaves the page for the picture
    part("drop").classList.toggle("over", name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) segment(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) segment(event.clipboardData.files[0]);
});
part("opacity").addEventListener("input", setOpacity);
setOpacity();
