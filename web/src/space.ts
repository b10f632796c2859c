/** From a depth map to points: which pixels stay, and where they lie. Shared by the 3D view and the point files. */

import type { DepthMap } from "./types";
import { percentiles } from "./types";

/** Largest step in depth between neighbours, relative to the depth, that is not taken for a smeared edge. */
export const MAX_RELATIVE_JUMP = 0.05;

/** Depth along the camera's axis: in metres where the kind allows, else a shape without unit. NaN: no value. */
export function axisDepth(map: DepthMap): { z: Float32Array; inMetres: boolean } {
  const values = map.values;
  switch (map.kind) {
    case "metric_depth":
      return { z: values, inMetres: true };
    case "inverse_depth":
      return { z: values.map((value) => (value > 0 ? 1 / value : NaN)), inMetres: true };
    case "scale_invariant_depth":
      return { z: values, inMetres: false };
    default: {
      // The shift of a relative map is unknown. One that puts the farthest part at eight times the nearest gives a
      // believable shape, and no more than that.
      const [low, high] = percentiles(map, [0.005, 0.995]);
      const span = high - low || 1;
      return {
        z: values.map((value) => 1 / (0.125 + 0.875 * Math.min(1.1, Math.max(0, (value - low) / span)))),
        inMetres: false,
      };
    }
  }
}

/** Which pixels are left: those with a value whose 3 x 3 neighbourhood has no step. */
export function keptPixels(z: Float32Array, height: number, width: number, jump = MAX_RELATIVE_JUMP): Uint8Array {
  const over = (values: Float32Array, empty: number, pick: (a: number, b: number) => number) => {
    const rows = new Float32Array(values.length);
    const both = new Float32Array(values.length);
    const at = (from: Float32Array, i: number) => (Number.isNaN(from[i]) ? empty : from[i]);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        let best = at(values, i);
        if (x > 0) best = pick(best, at(values, i - 1));
        if (x < width - 1) best = pick(best, at(values, i + 1));
        rows[i] = best;
      }
    }
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        let best = rows[i];
        if (y > 0) best = pick(best, rows[i - width]);
        if (y < height - 1) best = pick(best, rows[i + width]);
        both[i] = best;
      }
    }
    return both;
  };
  const nearest = over(z, Infinity, Math.min);
  const farthest = over(z, -Infinity, Math.max);
  const kept = new Uint8Array(z.length);
  for (let i = 0; i < z.length; i++) kept[i] = !Number.isNaN(z[i]) && farthest[i] - nearest[i] <= jump * z[i] ? 1 : 0;
  return kept;
}

/** The camera of a map; where none is known, one with a horizontal field of view of 55 degrees. */
export function cameraOf(map: DepthMap): { fx: number; fy: number; cx: number; cy: number } {
  if (map.camera) return map.camera;
  const focal = Math.max(map.width, map.height) / 2 / Math.tan((55 * Math.PI) / 360);
  return { fx: focal, fy: focal, cx: map.width / 2, cy: map.height / 2 };
}
