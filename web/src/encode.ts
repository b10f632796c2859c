/** Files of a depth map, made in the page, laid out as `fathom.io` writes them so that Fathom reads them back. */

import { zipSync, zlibSync } from "fflate";
import { writeNpy } from "./npy";
import { axisDepth, cameraOf, keptPixels } from "./space";
import type { DepthMap, Look } from "./types";
import { percentiles, Problem } from "./types";
import { loadColormaps, paint } from "./colormaps";

const LARGEST_COUNT = 65535;

export async function encode(
  format: string,
  map: DepthMap,
  look: Look,
  pixels: ImageData | null,
  version: string,
): Promise<Blob> {
  switch (format) {
    case "npy":
      return blob([writeNpy(bytesOf(map.values), "<f4", [map.height, map.width])], "application/x-npy");
    case "npz":
      return blob([npz(map, version)], "application/x-npz");
    case "png16":
      return blob([png16(map, version)], "image/png");
    case "json":
      return blob([JSON.stringify(answer(map, version))], "application/json");
    case "color":
      return colour(map, look);
    case "ply":
      return blob(ply(map, pixels, version), "application/x-ply");
    case "glb":
      return blob(glb(map, pixels, version), "model/gltf-binary");
  }
  throw new Problem("Unknown format", `There is no format called ${format}.`);
}

function blob(parts: (Uint8Array | string)[], type: string): Blob {
  return new Blob(parts as BlobPart[], { type });
}

function bytesOf(array: Float32Array | Float64Array | Uint32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function metadata(map: DepthMap, version: string, encoding: object = {}): Record<string, unknown> {
  return {
    fathom_metadata: 1,
    kind: map.kind,
    unit: map.unit,
    larger_is_nearer: map.largerIsNearer,
    height: map.height,
    width: map.width,
    confidence_meaning: null,
    camera: map.camera && {
      intrinsics: [
        [map.camera.fx, 0, map.camera.cx],
        [0, map.camera.fy, map.camera.cy],
        [0, 0, 1],
      ],
      focal_source: map.camera.source,
      baseline_m: null,
    },
    provenance: {
      model: map.model,
      weights_sha256: map.weightsSha256,
      preprocessing: { runtime: "onnxruntime-web" },
      licence: map.licence,
      fathom_version: version,
    },
    encoding,
  };
}

function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function npz(map: DepthMap, version: string): Uint8Array {
  const text = asciiJson(metadata(map, version));
  const letters = Uint32Array.from(text, (letter) => letter.charCodeAt(0));
  const shape = [map.height, map.width];
  const mask = Uint8Array.from(map.values, (value) => (Number.isNaN(value) ? 0 : 1));
  const files: Record<string, Uint8Array> = {
    "fathom.npy": writeNpy(bytesOf(letters), `<U${letters.length}`, []),
    "values.npy": writeNpy(bytesOf(map.values), "<f4", shape),
    "valid_mask.npy": writeNpy(mask, "|b1", shape),
    "invalid_reason.npy": writeNpy(
      mask.map((valid) => 1 - valid),
      "|u1",
      shape,
    ),
  };
  if (map.camera) {
    const { fx, fy, cx, cy } = map.camera;
    files["intrinsics.npy"] = writeNpy(bytesOf(Float64Array.of(fx, 0, cx, 0, fy, cy, 0, 0, 1)), "<f8", [3, 3]);
  }
  return zipSync(files, { level: 1, mtime: "1980-01-01T00:00:00" });
}

function answer(map: DepthMap, version: string): object {
  const valid = map.values.filter((value) => !Number.isNaN(value));
  const [low, p1, p50, p99, high] = percentiles(map, [0, 0.01, 0.5, 0.99, 1]);
  const { camera, provenance } = metadata(map, version);
  return {
    kind: map.kind,
    unit: map.unit,
    larger_is_nearer: map.largerIsNearer,
    height: map.height,
    width: map.width,
    model: map.model,
    valid_fraction: valid.length / map.values.length,
    smallest: valid.length ? low : null,
    largest: valid.length ? high : null,
    percentiles: valid.length ? { p1, p50, p99 } : null,
    metadata: { camera, provenance, confidence_meaning: null },
    dtype: "float32le",
    values: base64(bytesOf(map.values)),
  };
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

async function colour(map: DepthMap, look: Look): Promise<Blob> {
  const { maps } = await loadColormaps();
  const canvas = new OffscreenCanvas(map.width, map.height);
  canvas.getContext("2d")!.putImageData(paint(map, look, maps[look.colormap], map.width, map.height), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function png16(map: DepthMap, version: string): Uint8Array {
  const [low, high] = extremes(map.values);
  let scale = 0.001;
  let offset = 0;
  if (map.kind === "scale_invariant_depth") scale = high / LARGEST_COUNT;
  else if (map.kind !== "metric_depth" && low <= high) {
    scale = high > low ? (high - low) / (LARGEST_COUNT - 1) : Math.abs(low) || 1;
    offset = low - scale;
  }
  const rows = new Uint8Array(map.height * (1 + 2 * map.width));
  for (let y = 0, i = 0, at = 0; y < map.height; y++) {
    at++; // filter 0: none
    for (let x = 0; x < map.width; x++, i++) {
      const count = Math.round((map.values[i] - offset) / scale);
      const held = count >= 1 && count <= LARGEST_COUNT ? count : 0;
      rows[at++] = held >> 8;
      rows[at++] = held & 255;
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, map.width);
  view.setUint32(4, map.height);
  header.set([16, 0, 0, 0, 0], 8);
  const law = { law: "value = offset + scale * count", scale, offset, invalid_count: 0 };
  const text = new TextEncoder().encode(`fathom\0${asciiJson(metadata(map, version, law))}`);
  return concat([
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    chunk("tEXt", text),
    chunk("IDAT", zlibSync(rows, { level: 4 })),
    chunk("IEND", new Uint8Array()),
  ]);
}

function extremes(values: Float32Array): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function concat(parts: Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(name: string, content: Uint8Array): Uint8Array {
  const out = new Uint8Array(12 + content.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, content.length);
  out.set(new TextEncoder().encode(name), 4);
  out.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of out.subarray(4, 8 + content.length)) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + content.length, ~crc >>> 0);
  return out;
}

interface Points {
  positions: Float32Array;
  colors: Uint8Array;
}

/** Points in metres in the camera's axes: x right, y down, z forward. */
function pointsOf(map: DepthMap, pixels: ImageData | null): Points {
  const { z, inMetres } = axisDepth(map);
  if (!inMetres) {
    throw new Problem("Not possible for this kind of depth", "Points need metres; this map is relative. Use a metric model.");
  }
  const kept = keptPixels(z, map.height, map.width);
  const count = kept.reduce((sum, one) => sum + one, 0);
  if (!count) throw new Problem("No point is left", "No pixel has a depth that can be placed in space.");
  const { fx, fy, cx, cy } = cameraOf(map);
  const positions = new Float32Array(3 * count);
  const colors = new Uint8Array(3 * count);
  for (let i = 0, at = 0; i < z.length; i++) {
    if (!kept[i]) continue;
    positions[at] = ((i % map.width) + 0.5 - cx) * (z[i] / fx);
    positions[at + 1] = (Math.floor(i / map.width) + 0.5 - cy) * (z[i] / fy);
    positions[at + 2] = z[i];
    for (let c = 0; c < 3; c++) colors[at + c] = pixels ? pixels.data[4 * i + c] : 200;
    at += 3;
  }
  return { positions, colors };
}

function ply(map: DepthMap, pixels: ImageData | null, version: string): (Uint8Array | string)[] {
  const { positions, colors } = pointsOf(map, pixels);
  const count = positions.length / 3;
  const header = [
    "ply",
    "format binary_little_endian 1.0",
    "comment x right, y down, z forward, metres; camera at the origin",
    `comment fathom ${asciiJson(metadata(map, version))}`,
    `element vertex ${count}`,
    ...["x", "y", "z"].map((name) => `property float ${name}`),
    ...["red", "green", "blue"].map((name) => `property uchar ${name}`),
    "end_header\n",
  ];
  const body = new Uint8Array(15 * count);
  const view = new DataView(body.buffer);
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < 3; k++) view.setFloat32(15 * i + 4 * k, positions[3 * i + k], true);
    body.set(colors.subarray(3 * i, 3 * i + 3), 15 * i + 12);
  }
  return [header.join("\n"), body];
}

function glb(map: DepthMap, pixels: ImageData | null, version: string): Uint8Array[] {
  const { positions, colors } = pointsOf(map, pixels);
  const count = positions.length / 3;
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  const rgba = new Uint8Array(4 * count).fill(255);
  for (let i = 0; i < count; i++) {
    // glTF: y up, z towards the viewer.
    positions[3 * i + 1] *= -1;
    positions[3 * i + 2] *= -1;
    for (let k = 0; k < 3; k++) {
      low[k] = Math.min(low[k], positions[3 * i + k]);
      high[k] = Math.max(high[k], positions[3 * i + k]);
      rgba[4 * i + k] = LINEAR[colors[3 * i + k]];
    }
  }
  const tree = {
    asset: { version: "2.0", generator: "Fathom", extras: metadata(map, version) },
    extensionsUsed: ["KHR_materials_unlit"],
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ mesh: 0 }],
    meshes: [{ primitives: [{ attributes: { POSITION: 0, COLOR_0: 1 }, mode: 0, material: 0 }] }],
    materials: [{ pbrMetallicRoughness: { metallicFactor: 0 }, extensions: { KHR_materials_unlit: {} } }],
    accessors: [
      { bufferView: 0, componentType: 5126, count, type: "VEC3", min: low, max: high },
      { bufferView: 1, componentType: 5121, normalized: true, count, type: "VEC4" },
    ],
    bufferViews: [
      { buffer: 0, byteOffset: 0, byteLength: 12 * count, target: 34962 },
      { buffer: 0, byteOffset: 12 * count, byteLength: 4 * count, target: 34962 },
    ],
    buffers: [{ byteLength: 16 * count }],
  };
  const text = asciiJson(tree);
  const json = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 4) * 4));
  const head = new Uint32Array([0x46546c67, 2, 12 + 8 + json.length + 8 + 16 * count, json.length, 0x4e4f534a]);
  const binary = new Uint32Array([16 * count, 0x004e4942]);
  return [bytesOf(head), json, bytesOf(binary), bytesOf(positions), rgba];
}

/** Linear value of each sRGB value (IEC 61966-2-1); glTF colours of points are linear. */
const LINEAR = Uint8Array.from({ length: 256 }, (_, i) => {
  const value = i / 255;
  return Math.round(255 * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
});
