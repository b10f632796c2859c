/** NumPy's own file format, version 1.0 (numpy.lib.format): read float32, write any array of ours. */

export function parseNpy(buffer: ArrayBuffer): { values: Float32Array; shape: number[] } {
  const bytes = new Uint8Array(buffer);
  if (String.fromCharCode(...bytes.subarray(1, 6)) !== "NUMPY") throw new Error("not an npy file");
  const view = new DataView(buffer);
  const start = 10 + view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const shape = (/'shape': \(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").map(Number).filter(Boolean);
  if (!header.includes("'<f4'") || header.includes("True")) throw new Error(`unexpected npy header ${header}`);
  return { values: new Float32Array(buffer.slice(start)), shape };
}

export function writeNpy(content: Uint8Array, descr: string, shape: number[]): Uint8Array {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", "); // empty for a single value
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const padded = text.padEnd(Math.ceil((10 + text.length + 1) / 64) * 64 - 11) + "\n";
  const out = new Uint8Array(10 + padded.length + content.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length & 255, padded.length >> 8]);
  out.set(new TextEncoder().encode(padded), 10);
  out.set(content, 10 + padded.length);
  return out;
}
