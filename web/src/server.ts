/** Depth from the server that sent this page. */

import type { Backend, Camera, DepthMap, Kind, Look, ModelInfo } from "./types";
import { Problem } from "./types";
import { parseNpy } from "./npy";

export class ServerBackend implements Backend {
  readonly where = "The photo goes to the Fathom server that sent this page. It is not kept.";
  private token = sessionStorage.getItem("fathom-token") ?? "";
  private readonly askToken: () => Promise<string>;

  constructor(askToken: () => Promise<string>) {
    this.askToken = askToken;
  }

  async models(): Promise<ModelInfo[]> {
    const answer = await this.request("./v1/models", {});
    return ((await answer.json()) as { models: ModelInfo[] }).models;
  }

  async predict(photo: Blob, model: string): Promise<DepthMap> {
    const answer = await this.post(photo, { model, format: "npy" });
    const headers = answer.headers;
    const { values, shape } = parseNpy(await answer.arrayBuffer());
    return {
      values,
      height: shape[0],
      width: shape[1],
      kind: headers.get("fathom-kind") as Kind,
      unit: headers.get("fathom-unit") ?? "",
      largerIsNearer: headers.get("fathom-larger-is-nearer") === "true",
      model,
      licence: headers.get("fathom-licence") ?? "",
      weightsSha256: headers.get("fathom-weights-sha256") ?? "",
      camera: parseCamera(headers),
      seconds: timing(headers.get("server-timing") ?? "", "total") / 1000,
    };
  }

  async download(format: string, photo: Blob, map: DepthMap, look: Look): Promise<Blob> {
    const options: Record<string, string> = { model: map.model, format };
    if (format === "color") {
      Object.assign(options, { colormap: look.colormap, low: String(look.low), high: String(look.high) });
      if (!(look.low < look.high)) for (const name of ["low", "high"]) delete options[name];
    }
    return (await this.post(photo, options)).blob();
  }

  private post(photo: Blob, options: Record<string, string>): Promise<Response> {
    const body = new FormData();
    body.append("picture", photo, "picture");
    return this.request(`./v1/depth?${new URLSearchParams(options)}`, { method: "POST", body });
  }

  private async request(address: string, options: RequestInit): Promise<Response> {
    for (;;) {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : undefined;
      let answer: Response;
      try {
        answer = await fetch(address, { ...options, headers });
      } catch {
        throw new Problem("No answer", "The server cannot be reached. Check that it runs, then try again.");
      }
      if (answer.ok) return answer;
      if (answer.status === 401) {
        this.token = await this.askToken();
        sessionStorage.setItem("fathom-token", this.token);
        continue;
      }
      const problem = (await answer.json().catch(() => ({}))) as { title?: string; detail?: string };
      throw new Problem(
        problem.title ?? `Error ${answer.status}`,
        problem.detail ?? "The server gave no reason.",
        answer.status,
      );
    }
  }
}

function parseCamera(headers: Headers): Camera | null {
  const text = headers.get("fathom-intrinsics");
  if (!text) return null;
  const [fx, fy, cx, cy] = text.split(",").map(Number);
  return { fx, fy, cx, cy, source: headers.get("fathom-focal-source") ?? "" };
}

function timing(text: string, name: string): number {
  return Number(new RegExp(`${name};dur=([0-9.]+)`).exec(text)?.[1] ?? 0);
}
