/** Depth from a network that runs in this page; nothing leaves the machine. */

import type { InputSpec, Task } from "./engine";
import { encode } from "./encode";
import type { Backend, DepthMap, Look, ModelInfo } from "./types";
import { Problem } from "./types";

interface StaticModel extends ModelInfo {
  input: InputSpec;
  file: string;
  weights_sha256: string;
}

interface StaticSite {
  fathom_version: string;
  assumed_fov_x_deg: number;
  models: StaticModel[];
}

interface Reply {
  id: number;
  values?: Float32Array;
  seconds?: number;
  error?: string;
}

export class BrowserBackend implements Backend {
  readonly where = "Everything runs in this page: the photo does not leave your device.";
  private site: StaticSite | null = null;
  private worker: Worker | null = null;
  private waiting = new Map<number, (reply: Reply) => void>();
  private count = 0;

  async models(): Promise<ModelInfo[]> {
    const answer = await fetch("./fathom.json").catch(() => null);
    if (!answer?.ok) {
      throw new Problem(
        "No models",
        "fathom.json cannot be read. Open this folder through a web server: python -m http.server",
      );
    }
    this.site = (await answer.json()) as StaticSite;
    return this.site.models;
  }

  async predict(photo: Blob, name: string): Promise<DepthMap> {
    const model = this.site!.models.find((known) => known.name === name)!;
    const pixels = await pixelsOf(photo);
    const task: Omit<Task, "id"> = {
      model: new URL(model.file, document.baseURI).href,
      input: model.input,
      mayBeNegative: model.kind === "affine_invariant_inverse_depth",
      mayBeZero: model.kind === "inverse_depth" || model.kind === "disparity",
      pixels: pixels.data,
      height: pixels.height,
      width: pixels.width,
    };
    const reply = await this.ask(task);
    if (!reply.values) throw new Problem("The network failed", reply.error ?? "It gave no reason.");
    const focal =
      Math.max(pixels.width, pixels.height) / 2 / Math.tan((this.site!.assumed_fov_x_deg * Math.PI) / 360);
    return {
      values: reply.values,
      height: pixels.height,
      width: pixels.width,
      kind: model.kind,
      unit: model.unit,
      largerIsNearer: model.larger_is_nearer,
      model: name,
      licence: model.licence,
      weightsSha256: model.weights_sha256,
      camera: { fx: focal, fy: focal, cx: pixels.width / 2, cy: pixels.height / 2, source: "assumed" },
      seconds: reply.seconds ?? 0,
    };
  }

  download(format: string, _photo: Blob, map: DepthMap, look: Look, pixels: ImageData | null): Promise<Blob> {
    return encode(format, map, look, pixels, this.site!.fathom_version);
  }

  private ask(task: Omit<Task, "id">): Promise<Reply> {
    if (!this.worker) {
      this.worker = new Worker(new URL("./engine.ts", import.meta.url), { type: "module" });
      this.worker.onmessage = (event: MessageEvent<Reply>) => {
        this.waiting.get(event.data.id)?.(event.data);
        this.waiting.delete(event.data.id);
      };
      this.worker.onerror = (event) => {
        for (const [id, answer] of this.waiting) answer({ id, error: event.message || "the worker did not start" });
        this.waiting.clear();
      };
    }
    const id = ++this.count;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.worker!.postMessage({ ...task, id });
    });
  }
}

async function pixelsOf(photo: Blob): Promise<ImageData> {
  let bitmap: ImageBitmap;
  try {
    // No colour conversion: the networks were trained on the stored numbers.
    bitmap = await createImageBitmap(photo, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Problem("Not a picture", "This browser cannot read that file as a picture. Try a JPEG, PNG or WebP.");
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
