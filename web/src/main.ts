/** The page: takes a photo, shows its depth, reads values, and hands out files. */

import { BrowserBackend } from "./browser";
import { Camera } from "./camera";
import type { Colormaps } from "./colormaps";
import { loadColormaps } from "./colormaps";
import { element, hide, onTabs, show } from "./dom";
import { Map2d } from "./map2d";
import { ServerBackend } from "./server";
import type { Backend, DepthMap, Format, Look, ModelInfo } from "./types";
import { FORMATS, MEANING, percentiles, Problem, QUANTITY, spell, SUFFIXES } from "./types";
import type { Viewer3d } from "./viewer3d";

const PHOTO = "photo";

interface Shown {
  photo: Blob;
  name: string;
  /** The photo as the browser shows it; null where it cannot. */
  bitmap: ImageBitmap | null;
  maps: Map<string, DepthMap>;
  /** Range of colours by model, where the person chose one. */
  ranges: Map<string, [number, number]>;
}

const backend: Backend =
  document.querySelector<HTMLMetaElement>('meta[name="fathom-backend"]')!.content === "browser"
    ? new BrowserBackend()
    : new ServerBackend(askToken);

let models: ModelInfo[] = [];
let colormaps: Colormaps;
let shown: Shown | null = null;
let space: Viewer3d | null = null;
let spaceIsOf = "";
/** Counts photos and choices, so that a late answer never replaces a newer one. */
let turn = 0;

const leftSource = element("left-source", HTMLSelectElement);
const rightSource = element("right-source", HTMLSelectElement);
const colormapChoice = element("colormap", HTMLSelectElement);
const low = element("low", HTMLInputElement);
const high = element("high", HTMLInputElement);
const shape = element("shape", HTMLSelectElement);
const paintChoice = element("paint", HTMLSelectElement);
const readout = element("readout", HTMLElement);
const map2d = new Map2d(showReading);

async function start(): Promise<void> {
  followTheme();
  element("where-it-runs", HTMLElement).textContent = backend.where;
  wireIntake();
  wireControls();
  try {
    [colormaps, models] = await Promise.all([loadColormaps(), backend.models()]);
  } catch (error) {
    fail(error);
    return;
  }
  for (const name of Object.keys(colormaps.maps)) colormapChoice.add(new Option(name, name));
  colormapChoice.value = colormaps.default;
  leftSource.add(new Option("Photo", PHOTO));
  for (const model of models) {
    leftSource.add(new Option(model.name, model.name));
    rightSource.add(new Option(model.name, model.name));
  }
  rightSource.value = (models.find((model) => model.is_default) ?? models[0]).name;
  element("foot", HTMLElement).textContent =
    `Models here: ${models.map((model) => model.name).join(", ")}. Numbers without a unit are relative.`;
  document.body.dataset.ready = "true";
}

// Photos in

function wireIntake(): void {
  const file = element("file", HTMLInputElement);
  const drop = element("drop", HTMLElement);
  element("choose", HTMLButtonElement).addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files?.[0]) void take(file.files[0], file.files[0].name);
    file.value = "";
  });
  const camera = new Camera((photo) => void take(photo, "camera photo"));
  element("shoot", HTMLButtonElement).addEventListener("click", () => {
    camera.open().catch(() => {
      fail(new Problem("No camera", "The camera cannot be used here. Choose or drop a photo instead."));
    });
  });
  element("again", HTMLButtonElement).addEventListener("click", () => {
    hide("result");
    show("intake");
    clearProblem();
    element("choose", HTMLButtonElement).focus();
  });
  window.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])][0];
    if (pasted) void take(pasted, "pasted photo");
  });
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const dropped = event.dataTransfer?.files[0];
    if (dropped) void take(dropped, dropped.name);
    else fail(new Problem("No file", "That was not a file. Save the photo first, then drop it here."));
  });
}

async function take(photo: Blob, name: string): Promise<void> {
  if (!models.length) return;
  clearProblem();
  const mine = ++turn;
  // The server may read pictures that this browser cannot show, so a failure here is no error yet.
  const bitmap = await createImageBitmap(photo).catch(() => null);
  if (mine !== turn) return;
  const previous = shown;
  shown = { photo, name, bitmap, maps: new Map(), ranges: new Map() };
  spaceIsOf = "";
  element("file-name", HTMLElement).textContent = name;
  if (bitmap) map2d.setSize(bitmap.width, bitmap.height);
  hide("intake");
  show("result");
  try {
    await refresh();
    element("probe", HTMLElement).focus({ preventScroll: true });
  } catch (error) {
    if (mine !== turn) return;
    shown = previous;
    if (!previous?.maps.size) {
      shown = null;
      hide("result");
      show("intake");
    } else {
      element("file-name", HTMLElement).textContent = previous.name;
      await refresh();
    }
    fail(error);
  }
}

// What is shown

function sourcesInUse(): string[] {
  return [...new Set([leftSource.value, rightSource.value])].filter((source) => source !== PHOTO);
}

async function refresh(): Promise<void> {
  if (!shown) return;
  const mine = turn;
  const now = shown;
  for (const model of sourcesInUse()) {
    if (now.maps.has(model)) continue;
    setBusy(`Measuring with ${model}`);
    try {
      const map = await backend.predict(now.photo, model);
      now.maps.set(model, map);
    } finally {
      if (mine === turn) setBusy(null);
    }
  }
  if (mine === turn && now === shown) draw();
}

function draw(): void {
  const main = shown?.maps.get(rightSource.value);
  if (!shown || !main) return;
  map2d.setSize(main.width, main.height);
  const side = (source: string) => {
    const map = shown!.maps.get(source);
    return map ? { map, look: lookOf(map), table: colormaps.maps[colormapChoice.value] } : { bitmap: shown!.bitmap };
  };
  map2d.draw(side(leftSource.value), side(rightSource.value));
  element("left-tag", HTMLElement).textContent = leftSource.selectedOptions[0].text;
  element("right-tag", HTMLElement).textContent = rightSource.value;
  drawControls(main);
  drawFacts(main);
  drawDownloads(main);
  if (!element("view-space", HTMLElement).hidden) void drawSpace();
  const range = lookOf(main);
  const words = `${QUANTITY[main.kind]} from ${spell(range.low, main.unit)} to ${spell(range.high, main.unit)}`;
  if (!map2d.hasReading) readout.textContent = main.unit ? words : `${words}, relative: no unit`;
  element("status", HTMLElement).textContent = `Ready. ${words}${main.unit ? "" : ", relative, no unit"}.`;
}

function automaticRange(map: DepthMap): [number, number] {
  const [from, to] = percentiles(map, [0.01, 0.99]);
  return [from, to];
}

function lookOf(map: DepthMap): Look {
  const [from, to] = shown?.ranges.get(map.model) ?? automaticRange(map);
  return { colormap: colormapChoice.value, low: from, high: to };
}

/** Ends of the range sliders: all values of the map. */
function sliderEnds(map: DepthMap): [number, number] {
  const [from, to] = percentiles(map, [0, 1]);
  return to > from ? [from, to] : [from - 0.5, from + 0.5];
}

function drawControls(map: DepthMap): void {
  const [from, to] = sliderEnds(map);
  const look = lookOf(map);
  const place = (value: number) => String(Math.round((1000 * (value - from)) / (to - from)));
  low.value = place(look.low);
  high.value = place(look.high);
  for (const [input, output, value] of [
    [low, "low-text", look.low],
    [high, "high-text", look.high],
  ] as const) {
    element(output, HTMLElement).textContent = spell(value, map.unit);
    input.setAttribute("aria-valuetext", spell(value, map.unit));
  }
  const [far, near] = map.largerIsNearer ? [look.low, look.high] : [look.high, look.low];
  element("legend-far", HTMLElement).textContent = `far ${spell(far, map.unit)}`;
  element("legend-near", HTMLElement).textContent = `near ${spell(near, map.unit)}`;
  const bar = element("legend-bar", HTMLCanvasElement).getContext("2d")!;
  const colours = new ImageData(256, 1);
  const table = colormaps.maps[colormapChoice.value];
  for (let i = 0; i < 256; i++) colours.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  bar.putImageData(colours, 0, 0);
}

function drawFacts(map: DepthMap): void {
  element("meaning", HTMLElement).textContent = MEANING[map.kind];
  const model = models.find((known) => known.name === map.model);
  const invalid = map.values.reduce((sum, value) => sum + (Number.isNaN(value) ? 1 : 0), 0);
  const facts: [string, string][] = [
    ["Model", map.model],
    ["Size", `${map.width} × ${map.height}`],
    ["Time", `${map.seconds.toFixed(2)} s`],
  ];
  if (invalid) facts.push(["Without a value", `${((100 * invalid) / map.values.length).toFixed(1)} %`]);
  if (map.camera) facts.push(["Focal length", `${map.camera.fx.toFixed(0)} px, ${map.camera.source}`]);
  if (map.licence) facts.push(["Licence", map.licence]);
  for (const limit of model?.limits ?? []) facts.push(["Limit", limit]);
  element("facts", HTMLElement).replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      return [term, description];
    }),
  );
}

// Readings

function showReading(reading: { x: number; y: number } | null): void {
  if (!shown || !reading) return;
  const words = [...new Set([leftSource.value, rightSource.value])]
    .filter((source) => source !== PHOTO)
    .map((source) => describe(shown!.maps.get(source), reading.x, reading.y, sourcesInUse().length > 1));
  readout.textContent = `${words.join("   ·   ")}   at x ${reading.x}, y ${reading.y}`;
}

function describe(map: DepthMap | undefined, x: number, y: number, named: boolean): string {
  if (!map) return "";
  const value = map.values[y * map.width + x];
  const name = named ? `${map.model}: ` : "";
  if (Number.isNaN(value)) return `${name}no value here`;
  if (map.unit) return `${name}${QUANTITY[map.kind]} ${spell(value, map.unit)}`;
  return `${name}${QUANTITY[map.kind]} ${spell(value, "")} (relative, no unit)`;
}

// Controls

function wireControls(): void {
  const change = () => void refresh().catch(fail);
  leftSource.addEventListener("change", change);
  rightSource.addEventListener("change", change);
  colormapChoice.addEventListener("change", draw);
  paintChoice.addEventListener("change", () => void drawSpace());
  shape.addEventListener("change", () => void drawSpace());
  const onRange = (moved: HTMLInputElement) => {
    const map = shown?.maps.get(rightSource.value);
    if (!map) return;
    // The ends keep a gap, so that the range is never empty.
    if (Number(low.value) >= Number(high.value)) {
      if (moved === low) low.value = String(Number(high.value) - 1);
      else high.value = String(Number(low.value) + 1);
    }
    const [from, to] = sliderEnds(map);
    const value = (input: HTMLInputElement) => from + (Number(input.value) / 1000) * (to - from);
    shown!.ranges.set(map.model, [value(low), value(high)]);
    draw();
  };
  low.addEventListener("input", () => onRange(low));
  high.addEventListener("input", () => onRange(high));
  element("auto-range", HTMLButtonElement).addEventListener("click", () => {
    shown?.ranges.clear();
    draw();
  });
  onTabs(["tab-map", "tab-space"], (tab) => {
    element("space-options", HTMLElement).hidden = tab !== "tab-space";
    element("left-label", HTMLElement).hidden = tab === "tab-space";
    element("right-label", HTMLElement).textContent = tab === "tab-space" ? "Model" : "Right";
    readout.hidden = tab === "tab-space";
    element("space-help", HTMLElement).hidden = tab !== "tab-space";
    if (tab === "tab-space") void drawSpace();
  });
}

async function drawSpace(): Promise<void> {
  const map = shown?.maps.get(rightSource.value);
  if (!map) return;
  const note = element("space-note", HTMLElement);
  try {
    if (!space) {
      const { Viewer3d } = await import("./viewer3d");
      space = new Viewer3d(element("space-canvas", HTMLCanvasElement));
    }
  } catch {
    note.hidden = false;
    note.textContent = "This browser has no WebGL, so the 3D view cannot be drawn.";
    return;
  }
  const paint = paintChoice.value === "depth" || !shown!.bitmap ? map2d.painted("right") : map2d.photo(shown!.bitmap);
  const inMetres = space.show(
    map,
    { shape: shape.value as "points" | "mesh", paint: paint! },
    spaceIsOf === map.model,
  );
  spaceIsOf = map.model;
  note.hidden = inMetres;
  note.textContent = "A relative map: the shape is a guess and has no unit.";
}

function drawDownloads(map: DepthMap): void {
  const metric = map.unit !== "";
  element("downloads", HTMLElement).replaceChildren(
    ...FORMATS.map((format) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.dataset.format = format.name;
      button.textContent = format.label;
      button.disabled = format.needsMetres && !metric;
      button.addEventListener("click", () => void save(format, map, button).catch(fail));
      return button;
    }),
  );
  const note = element("download-note", HTMLElement);
  note.hidden = metric;
  note.textContent = "Point files need metres; this map is relative.";
}

async function save(format: Format, map: DepthMap, button: HTMLButtonElement): Promise<void> {
  clearProblem();
  button.setAttribute("aria-busy", "true");
  try {
    const pixels = shown!.bitmap && format.needsMetres ? map2d.photo(shown!.bitmap, map.width, map.height) : null;
    const content = await backend.download(format.name, shown!.photo, map, lookOf(map), pixels);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${shown!.name.replace(/\.[^.]*$/, "") || "depth"}${SUFFIXES[format.name]}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    element("status", HTMLElement).textContent = `${format.label} saved.`;
  } finally {
    button.removeAttribute("aria-busy");
  }
}

// Words to the person

function setBusy(text: string | null): void {
  element("busy", HTMLElement).hidden = text === null;
  element("stage", HTMLElement).setAttribute("aria-busy", String(text !== null));
  if (text !== null) {
    element("busy-text", HTMLElement).textContent = text;
    element("status", HTMLElement).textContent = text;
  }
}

function fail(error: unknown): void {
  setBusy(null);
  const box = element("problem", HTMLElement);
  const title = document.createElement("strong");
  const detail = document.createElement("span");
  title.textContent = error instanceof Problem ? error.title : "Something went wrong";
  detail.textContent = error instanceof Error ? error.message : String(error);
  box.replaceChildren(title, detail);
  box.hidden = false;
  if (!(error instanceof Problem)) console.error(error);
}

function clearProblem(): void {
  element("problem", HTMLElement).hidden = true;
}

function askToken(): Promise<string> {
  const dialog = element("ask-token", HTMLDialogElement);
  const input = element("token", HTMLInputElement);
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(input.value.trim()), { once: true }));
}

function followTheme(): void {
  const choice = element("theme", HTMLSelectElement);
  choice.value = localStorage.getItem("fathom-theme") ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = choice.value;
    localStorage.setItem("fathom-theme", choice.value);
  };
  choice.addEventListener("change", apply);
  apply();
}

void start();
