/** A worker that runs a network with onnxruntime-web: picture in, depth out, by the rules of `fathom.runtime.steps`. */

import * as ort from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import { resizeMap, resizePicture } from "./resize";

export interface InputSpec {
  law: "area" | "keep_aspect" | "fixed" | "native";
  area: [number, number] | null;
  height: number | null;
  width: number | null;
  multiple: number;
  interpolation: string;
  mean: [number, number, number];
  std: [number, number, number];
}

export interface Task {
  id: number;
  model: string;
  input: InputSpec;
  mayBeNegative: boolean;
  mayBeZero: boolean;
  pixels: Uint8ClampedArray;
  height: number;
  width: number;
}

const WIDEST_ASPECT = 8;
const sessions = new Map<string, Promise<ort.InferenceSession>>();

ort.env.wasm.wasmPaths = { wasm: wasmUrl };
// Threads need SharedArrayBuffer, which a page only has when its host sends the isolation headers.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

/** Python's round: halves go to the even neighbour. */
function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

export function gridSize(spec: InputSpec, height: number, width: number): [number, number] {
  const whole = (value: number) => Math.max(spec.multiple, roundHalfEven(value / spec.multiple) * spec.multiple);
  if (spec.law === "area" && spec.area) {
    const aspect = Math.min(Math.max(width / height, 1 / WIDEST_ASPECT), WIDEST_ASPECT);
    const pixels = spec.area[0] * spec.area[1];
    return [whole(Math.sqrt(pixels / aspect)), whole(Math.sqrt(pixels * aspect))];
  }
  if (spec.law === "native") {
    const down = (side: number) => Math.max(spec.multiple, Math.floor(side / spec.multiple) * spec.multiple);
    return [down(height), down(width)];
  }
  if (spec.height === null || spec.width === null) throw new Error(`the law ${spec.law} needs height and width`);
  if (spec.law === "fixed") return [whole(spec.height), whole(spec.width)];
  const scaleY = spec.height / height;
  const scaleX = spec.width / width;
  const scale = Math.abs(1 - scaleX) < Math.abs(1 - scaleY) ? scaleX : scaleY;
  const longest = WIDEST_ASPECT * Math.max(spec.height, spec.width);
  return [whole(Math.min(height * scale, longest)), whole(Math.min(width * scale, longest))];
}

function networkInput(task: Task, height: number, width: number): Float32Array {
  const picture = new Float32Array(task.height * task.width * 3);
  for (let i = 0, at = 0; i < task.pixels.length; i += 4) {
    // Transparency is laid over white.
    const alpha = task.pixels[i + 3] / 255;
    for (let c = 0; c < 3; c++) picture[at++] = alpha === 1 ? task.pixels[i + c] : task.pixels[i + c] * alpha + 255 * (1 - alpha);
  }
  const plane = { data: picture, height: task.height, width: task.width, channels: 3 };
  const resized = resizePicture(plane, height, width, task.input.interpolation);
  const count = height * width;
  const input = new Float32Array(3 * count);
  for (let c = 0; c < 3; c++) {
    const factor = 1 / (255 * task.input.std[c]);
    const offset = task.input.mean[c] / task.input.std[c];
    for (let i = 0; i < count; i++) input[c * count + i] = resized.data[3 * i + c] * factor - offset;
  }
  return input;
}

async function run(task: Task): Promise<Float32Array> {
  let opening = sessions.get(task.model);
  if (!opening) {
    opening = ort.InferenceSession.create(task.model, { executionProviders: ["wasm"] });
    sessions.set(task.model, opening);
    opening.catch(() => sessions.delete(task.model));
  }
  const session = await opening;
  const [height, width] = gridSize(task.input, task.height, task.width);
  const tensor = new ort.Tensor("float32", networkInput(task, height, width), [1, 3, height, width]);
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  const name = ["depth", "predicted_depth"].find((known) => session.outputNames.includes(known));
  const raw = outputs[name ?? session.outputNames[0]];
  const [h, w] = raw.dims.slice(-2);
  const map = { data: raw.data as Float32Array, height: h, width: w, channels: 1 };
  const values = resizeMap(map, task.height, task.width).data.slice();
  const lowest = task.mayBeNegative ? -Infinity : task.mayBeZero ? 0 : 1.1754944e-38;
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]) || values[i] < lowest) values[i] = NaN;
  }
  return values;
}

self.onmessage = async (event: MessageEvent<Task>) => {
  const started = performance.now();
  try {
    const values = await run(event.data);
    const seconds = (performance.now() - started) / 1000;
    self.postMessage({ id: event.data.id, values, seconds }, { transfer: [values.buffer] });
  } catch (error) {
    self.postMessage({ id: event.data.id, error: String(error) });
  }
};
