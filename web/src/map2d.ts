/** The flat view: two pictures under a movable edge, and a point that reads values. */

import { paint } from "./colormaps";
import { element } from "./dom";
import type { DepthMap, Look } from "./types";

const LARGEST_SIDE = 1600;

export type Side = { map: DepthMap; look: Look; table: Uint8Array } | { bitmap: ImageBitmap | null };

export class Map2d {
  /** Whether a reading is on the screen. */
  hasReading = false;
  private readonly stage = element("stage", HTMLElement);
  private readonly probe = element("probe", HTMLElement);
  private readonly cross = element("cross", HTMLElement);
  private readonly split = element("split", HTMLElement);
  private readonly canvases = {
    left: element("left", HTMLCanvasElement),
    right: element("right", HTMLCanvasElement),
  };
  private height = 1;
  private width = 1;
  private at = { x: 0, y: 0 };
  private readonly read: (reading: { x: number; y: number } | null) => void;

  constructor(read: (reading: { x: number; y: number } | null) => void) {
    this.read = read;
    this.probe.addEventListener("pointermove", (event) => this.onPointer(event));
    this.probe.addEventListener("pointerdown", (event) => this.onPointer(event));
    this.probe.addEventListener("keydown", (event) => this.onProbeKey(event));
    this.split.addEventListener("pointerdown", (event) => {
      this.split.setPointerCapture(event.pointerId);
      event.preventDefault();
      this.split.focus();
    });
    this.split.addEventListener("pointermove", (event) => {
      if (!this.split.hasPointerCapture(event.pointerId)) return;
      const box = this.stage.getBoundingClientRect();
      this.moveSplit((100 * (event.clientX - box.left)) / box.width);
    });
    this.split.addEventListener("keydown", (event) => {
      const steps: Record<string, number> = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      const step = steps[event.key];
      if (step === undefined) return;
      this.moveSplit(Number(this.split.getAttribute("aria-valuenow")) + step);
      event.preventDefault();
    });
    this.moveSplit(50);
  }

  /** Take the size of the picture; the reading point starts in its middle. */
  setSize(width: number, height: number): void {
    if (width === this.width && height === this.height) return;
    this.width = width;
    this.height = height;
    this.at = { x: width >> 1, y: height >> 1 };
    this.hasReading = false;
    this.cross.hidden = true;
    this.stage.style.setProperty("--aspect", String(width / height));
  }

  draw(left: Side, right: Side): void {
    this.drawSide(this.canvases.left, left);
    this.drawSide(this.canvases.right, right);
    if (this.hasReading) this.read(this.at);
  }

  /** The pixels of one side as they are painted. */
  painted(side: "left" | "right"): ImageData {
    const canvas = this.canvases[side];
    return canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  }

  /** The photo's pixels at a size; default: that of the screen. */
  photo(bitmap: ImageBitmap, width = this.canvases.left.width, height = this.canvases.left.height): ImageData {
    const context = new OffscreenCanvas(width, height).getContext("2d")!;
    context.drawImage(bitmap, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }

  private drawSide(canvas: HTMLCanvasElement, side: Side): void {
    const shrink = Math.min(1, LARGEST_SIDE / Math.max(this.width, this.height));
    canvas.width = Math.max(1, Math.round(this.width * shrink));
    canvas.height = Math.max(1, Math.round(this.height * shrink));
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    if ("map" in side) {
      context.putImageData(paint(side.map, side.look, side.table, canvas.width, canvas.height), 0, 0);
    } else if (side.bitmap) {
      context.drawImage(side.bitmap, 0, 0, canvas.width, canvas.height);
    } else {
      context.fillStyle = "#888";
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
  }

  private moveSplit(share: number): void {
    const bounded = Math.min(100, Math.max(0, Math.round(share)));
    this.split.setAttribute("aria-valuenow", String(bounded));
    this.split.setAttribute("aria-valuetext", `${bounded} percent left side`);
    this.stage.style.setProperty("--split", `${bounded}%`);
  }

  private onPointer(event: PointerEvent): void {
    const box = this.probe.getBoundingClientRect();
    const place = (share: number, size: number) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
    this.moveProbe(
      place((event.clientX - box.left) / box.width, this.width),
      place((event.clientY - box.top) / box.height, this.height),
    );
  }

  private onProbeKey(event: KeyboardEvent): void {
    const step = Math.max(1, Math.round(Math.max(this.width, this.height) / 200)) * (event.shiftKey ? 10 : 1);
    const steps: Record<string, [number, number]> = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
      Enter: [0, 0],
    };
    const move = steps[event.key];
    if (!move) return;
    this.moveProbe(
      Math.min(this.width - 1, Math.max(0, this.at.x + move[0])),
      Math.min(this.height - 1, Math.max(0, this.at.y + move[1])),
    );
    event.preventDefault();
  }

  private moveProbe(x: number, y: number): void {
    this.at = { x, y };
    this.hasReading = true;
    this.cross.hidden = false;
    this.cross.style.left = `${(100 * (x + 0.5)) / this.width}%`;
    this.cross.style.top = `${(100 * (y + 0.5)) / this.height}%`;
    this.read(this.at);
  }
}
