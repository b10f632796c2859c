/** Colour maps from far to near, and a map painted with one. */

import type { DepthMap, Look } from "./types";

export interface Colormaps {
  default: string;
  maps: Record<string, Uint8Array>;
}

const NEUTRAL = [128, 128, 128];
const NEUTRAL_FOR_GRAY = [62, 84, 112];

export async function loadColormaps(): Promise<Colormaps> {
  const answer = await fetch("./colormaps.json");
  if (!answer.ok) throw new Error(`colormaps.json: ${answer.status}`);
  const document = (await answer.json()) as { default: string; maps: Record<string, string> };
  const maps = Object.fromEntries(
    Object.entries(document.maps).map(([name, hex]) => [
      name,
      Uint8Array.from({ length: hex.length / 2 }, (_, i) => parseInt(hex.slice(2 * i, 2 * i + 2), 16)),
    ]),
  );
  return { default: document.default, maps };
}

/** Paint a map at a size; near is warm or bright whatever the kind. */
export function paint(map: DepthMap, look: Look, table: Uint8Array, width: number, height: number): ImageData {
  const image = new ImageData(width, height);
  const [start, stop] = map.largerIsNearer ? [look.low, look.high] : [look.high, look.low];
  const step = stop === start ? 0 : 255 / (stop - start);
  const neutral = look.colormap === "gray" ? NEUTRAL_FOR_GRAY : NEUTRAL;
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * map.width) / width));
  let out = 0;
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * map.height) / height) * map.width;
    for (let x = 0; x < width; x++, out += 4) {
      const value = map.values[row + columns[x]];
      if (Number.isNaN(value)) {
        image.data.set(neutral, out);
      } else {
        const level = step ? Math.min(255, Math.max(0, (value - start) * step)) : 127.5;
        const at = 3 * Math.floor(level + 0.5 > 255 ? 255 : level + 0.5);
        image.data[out] = table[at];
        image.data[out + 1] = table[at + 1];
        image.data[out + 2] = table[at + 2];
      }
      image.data[out + 3] = 255;
    }
  }
  return image;
}
