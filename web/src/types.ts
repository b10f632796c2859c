/** What crosses between the parts of the page. */

export type Kind =
  | "metric_depth"
  | "inverse_depth"
  | "scale_invariant_depth"
  | "affine_invariant_inverse_depth"
  | "disparity";

export interface ModelInfo {
  name: string;
  kind: Kind;
  unit: string;
  larger_is_nearer: boolean;
  description: string;
  licence: string;
  limits: string[];
  is_default: boolean;
}

export interface Camera {
  fx: number;
  fy: number;
  cx: number;
  cy: number;
  source: string;
}

/** A depth map at the picture's own size; a pixel without a value is NaN. */
export interface DepthMap {
  values: Float32Array;
  height: number;
  width: number;
  kind: Kind;
  unit: string;
  largerIsNearer: boolean;
  model: string;
  licence: string;
  weightsSha256: string;
  camera: Camera | null;
  seconds: number;
}

export interface Format {
  name: string;
  label: string;
  needsMetres: boolean;
}

export interface Look {
  colormap: string;
  low: number;
  high: number;
}

/** Where depth comes from: a server, or a network in this page. */
export interface Backend {
  /** One sentence on where pictures go. */
  readonly where: string;
  models(): Promise<ModelInfo[]>;
  predict(photo: Blob, model: string): Promise<DepthMap>;
  /** Returns a file of the map; `pixels` is the picture as it is shown. */
  download(format: string, photo: Blob, map: DepthMap, look: Look, pixels: ImageData | null): Promise<Blob>;
}

/** An error in words for the person at the page. */
export class Problem extends Error {
  readonly title: string;
  readonly status: number;
  constructor(title: string, detail: string, status = 0) {
    super(detail);
    this.title = title;
    this.status = status;
  }
}

export const FORMATS: Format[] = [
  { name: "color", label: "Colour PNG", needsMetres: false },
  { name: "png16", label: "16-bit PNG", needsMetres: false },
  { name: "npy", label: "NumPy .npy", needsMetres: false },
  { name: "npz", label: "NumPy .npz", needsMetres: false },
  { name: "json", label: "JSON", needsMetres: false },
  { name: "ply", label: "PLY points", needsMetres: true },
  { name: "glb", label: "GLB points", needsMetres: true },
];

export const SUFFIXES: Record<string, string> = {
  color: "_color.png",
  png16: ".png",
  npy: ".npy",
  npz: ".npz",
  json: ".json",
  ply: ".ply",
  glb: ".glb",
};

/** Percentiles of the valid values, on a regular sample of large maps. */
export function percentiles(map: DepthMap, shares: number[]): number[] {
  const step = Math.max(1, Math.floor(map.values.length / 200_000));
  const sample: number[] = [];
  for (let i = 0; i < map.values.length; i += step) {
    const value = map.values[i];
    if (!Number.isNaN(value)) sample.push(value);
  }
  if (!sample.length) return shares.map(() => 0);
  const sorted = Float32Array.from(sample).sort();
  return shares.map((share) => {
    const place = share * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
  });
}

/** A value in words, with three or four figures. */
export function spell(value: number, unit: string): string {
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return `${value.toFixed(digits)}${unit && ` ${unit}`}`;
}

/** What the numbers of a kind are, in a word or two. */
export const QUANTITY: Record<Kind, string> = {
  metric_depth: "Depth",
  inverse_depth: "Inverse depth",
  scale_invariant_depth: "Depth without scale",
  affine_invariant_inverse_depth: "Nearness",
  disparity: "Disparity",
};

/** What the numbers of a kind are, in a sentence or two. */
export const MEANING: Record<Kind, string> = {
  metric_depth: "Metres along the camera's viewing direction.",
  inverse_depth: "One over the depth in metres: larger is nearer.",
  scale_invariant_depth: "Depth up to one unknown factor: ratios mean something, metres do not.",
  affine_invariant_inverse_depth:
    "A relative map: larger is nearer. It has no unit, and cannot be turned into metres without measurements.",
  disparity: "Pixels of shift in a stereo pair: larger is nearer.",
};
