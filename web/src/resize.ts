/**
 * Resizing as `fathom.geometry` does it: exact area means, and Pillow's separable kernels that widen when shrinking
 * (bilinear; bicubic with a = -0.5). Horizontal before vertical; 8-bit pictures are rounded after each pass.
 */

export interface Plane {
  data: Float32Array;
  height: number;
  width: number;
  channels: number;
}

interface Taps {
  start: Int32Array;
  count: Int32Array;
  weights: Float32Array;
  most: number;
}

function bilinear(x: number): number {
  return Math.max(0, 1 - Math.abs(x));
}

function bicubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

function kernelTaps(sizeIn: number, sizeOut: number, kernel: (x: number) => number, radius: number): Taps {
  const scale = sizeIn / sizeOut;
  const stretch = Math.max(1, scale);
  const support = radius * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const taps = {
    start: new Int32Array(sizeOut),
    count: new Int32Array(sizeOut),
    weights: new Float32Array(sizeOut * most),
    most,
  };
  for (let i = 0; i < sizeOut; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(sizeIn, Math.floor(centre + support + 0.5));
    let sum = 0;
    const weights = [];
    for (let j = first; j < last; j++) {
      const weight = kernel((j - centre + 0.5) / stretch);
      weights.push(weight);
      sum += weight;
    }
    taps.start[i] = first;
    taps.count[i] = last - first;
    weights.forEach((weight, k) => (taps.weights[i * most + k] = weight / sum));
  }
  return taps;
}

function areaTaps(sizeIn: number, sizeOut: number): Taps {
  const scale = sizeIn / sizeOut;
  const most = Math.ceil(scale) + 1;
  const taps = {
    start: new Int32Array(sizeOut),
    count: new Int32Array(sizeOut),
    weights: new Float32Array(sizeOut * most),
    most,
  };
  for (let i = 0; i < sizeOut; i++) {
    const from = i * scale;
    const first = Math.floor(from);
    taps.start[i] = first;
    for (let k = 0; k < most; k++) {
      const share = Math.min(first + k + 1, from + scale) - Math.max(first + k, from);
      if (share <= 0 || first + k >= sizeIn) break;
      taps.weights[i * most + k] = share / scale;
      taps.count[i] = k + 1;
    }
  }
  return taps;
}

function alongRows(plane: Plane, width: number, taps: Taps): Plane {
  const { channels, height } = plane;
  const out = new Float32Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        let at = (y * plane.width + taps.start[x]) * channels + c;
        for (let k = 0; k < taps.count[x]; k++, at += channels) sum += plane.data[at] * taps.weights[x * taps.most + k];
        out[(y * width + x) * channels + c] = sum;
      }
    }
  }
  return { data: out, height, width, channels };
}

function alongColumns(plane: Plane, height: number, taps: Taps): Plane {
  const row = plane.width * plane.channels;
  const out = new Float32Array(height * row);
  for (let y = 0; y < height; y++) {
    for (let k = 0; k < taps.count[y]; k++) {
      const weight = taps.weights[y * taps.most + k];
      const from = (taps.start[y] + k) * row;
      for (let i = 0; i < row; i++) out[y * row + i] += plane.data[from + i] * weight;
    }
  }
  return { ...plane, data: out, height };
}

function round8(plane: Plane): Plane {
  for (let i = 0; i < plane.data.length; i++) {
    plane.data[i] = Math.min(255, Math.max(0, Math.floor(plane.data[i] + 0.5)));
  }
  return plane;
}

function byKernel(plane: Plane, height: number, width: number, cubic: boolean, whole: boolean): Plane {
  const [kernel, radius] = cubic ? ([bicubic, 2] as const) : ([bilinear, 1] as const);
  const finish = whole ? round8 : (same: Plane) => same;
  if (width !== plane.width) plane = finish(alongRows(plane, width, kernelTaps(plane.width, width, kernel, radius)));
  if (height !== plane.height)
    plane = finish(alongColumns(plane, height, kernelTaps(plane.height, height, kernel, radius)));
  return plane;
}

/** Resize an RGB picture on the scale 0 to 255. */
export function resizePicture(picture: Plane, height: number, width: number, interpolation: string): Plane {
  if (interpolation !== "area") return byKernel(picture, height, width, interpolation === "bicubic", true);
  let plane = byKernel(picture, Math.max(height, picture.height), Math.max(width, picture.width), false, true);
  if (plane.height > height) plane = alongColumns(plane, height, areaTaps(plane.height, height));
  if (plane.width > width) plane = alongRows(plane, width, areaTaps(plane.width, width));
  return plane;
}

/** Resize a map of floats bilinearly. */
export function resizeMap(map: Plane, height: number, width: number): Plane {
  return byKernel(map, height, width, false, false);
}
