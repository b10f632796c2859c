/** The 3D view: coloured points or a surface, turned by mouse, touch or keys. */

import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { axisDepth, cameraOf, keptPixels } from "./space";
import type { DepthMap } from "./types";

const MOST_POINTS = 350_000;

export interface SpaceLook {
  shape: "points" | "mesh";
  /** Colours of the map, at any size. */
  paint: ImageData;
}

export class Viewer3d {
  private readonly renderer: THREE.WebGLRenderer;
  private readonly scene = new THREE.Scene();
  private readonly camera = new THREE.PerspectiveCamera(50, 1, 0.01, 1000);
  private readonly controls: OrbitControls;
  private readonly canvas: HTMLCanvasElement;
  private thing: THREE.Points | THREE.Mesh | null = null;
  private distance = 1;
  private drawing = false;

  constructor(canvas: HTMLCanvasElement) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio));
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement!);
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Returns whether the shape is in metres. */
  show(map: DepthMap, look: SpaceLook, keepView: boolean): boolean {
    if (this.thing) {
      this.scene.remove(this.thing);
      this.thing.geometry.dispose();
      (this.thing.material as THREE.Material).dispose();
    }
    const { z, inMetres } = axisDepth(map);
    const kept = keptPixels(z, map.height, map.width, inMetres ? undefined : 0.08);
    const step = Math.max(1, Math.ceil(Math.sqrt(z.length / MOST_POINTS)));
    const columns = Math.ceil(map.width / step);
    const rows = Math.ceil(map.height / step);
    const { fx, fy, cx, cy } = cameraOf(map);
    const positions: number[] = [];
    const colors: number[] = [];
    const index = new Int32Array(rows * columns).fill(-1);
    const depths: number[] = [];
    const { data, width: paintWidth, height: paintHeight } = look.paint;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const [y, x] = [r * step, c * step];
        const at = y * map.width + x;
        if (!kept[at]) continue;
        index[r * columns + c] = positions.length / 3;
        positions.push((x + 0.5 - cx) * (z[at] / fx), -(y + 0.5 - cy) * (z[at] / fy), -z[at]);
        depths.push(z[at]);
        const from =
          4 * (Math.floor((y * paintHeight) / map.height) * paintWidth + Math.floor((x * paintWidth) / map.width));
        colors.push(data[from] / 255, data[from + 1] / 255, data[from + 2] / 255);
      }
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions, 3));
    const linear = new THREE.Color();
    for (let i = 0; i < colors.length; i += 3) {
      linear.setRGB(colors[i], colors[i + 1], colors[i + 2], THREE.SRGBColorSpace).toArray(colors, i);
    }
    geometry.setAttribute("color", new THREE.Float32BufferAttribute(colors, 3));
    depths.sort((a, b) => a - b);
    const middle = depths[Math.floor(depths.length / 2)] ?? 1;
    const far = depths[Math.floor(depths.length * 0.8)] ?? 1;
    this.camera.fov = Math.min(75, (2 * Math.atan(map.height / 2 / fy) * 180) / Math.PI);
    if (look.shape === "mesh") {
      geometry.setIndex(triangles(index, rows, columns));
      this.thing = new THREE.Mesh(
        geometry,
        new THREE.MeshBasicMaterial({ vertexColors: true, side: THREE.DoubleSide }),
      );
    } else {
      // As large as the gap between far neighbours, so that surfaces look closed. three.js leaves the field of view
      // out of the size on the screen.
      const size = (1.2 * step * (far / fx)) / Math.tan((this.camera.fov * Math.PI) / 360);
      this.thing = new THREE.Points(geometry, new THREE.PointsMaterial({ size, vertexColors: true }));
    }
    this.scene.add(this.thing);
    this.distance = middle;
    this.camera.near = middle / 500;
    this.camera.far = middle * 500;
    if (!keepView) this.reset();
    this.resize();
    return inMetres;
  }

  reset(): void {
    this.camera.position.set(0, 0, this.distance * 0.12);
    this.controls.target.set(0, 0, -this.distance);
    this.controls.update();
    this.turn(-0.16, -0.07);
  }

  private turn(aside: number, up: number): void {
    const offset = this.camera.position.clone().sub(this.controls.target);
    const round = new THREE.Spherical().setFromVector3(offset);
    round.theta += aside;
    round.phi = Math.min(Math.PI - 0.05, Math.max(0.05, round.phi + up));
    this.camera.position.copy(this.controls.target).add(new THREE.Vector3().setFromSpherical(round));
    this.controls.update();
    this.draw();
  }

  private zoom(factor: number): void {
    const offset = this.camera.position.clone().sub(this.controls.target).multiplyScalar(factor);
    this.camera.position.copy(this.controls.target).add(offset);
    this.controls.update();
    this.draw();
  }

  private onKey(event: KeyboardEvent): void {
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.turn(0.1, 0),
      ArrowRight: () => this.turn(-0.1, 0),
      ArrowUp: () => this.turn(0, 0.1),
      ArrowDown: () => this.turn(0, -0.1),
      "+": () => this.zoom(0.9),
      "=": () => this.zoom(0.9),
      "-": () => this.zoom(1 / 0.9),
      "0": () => this.reset(),
    };
    const action = actions[event.key];
    if (action && !event.ctrlKey && !event.metaKey && !event.altKey) {
      action();
      event.preventDefault();
    }
  }

  private resize(): void {
    const box = this.canvas.parentElement!.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.renderer.setSize(box.width, box.height, false);
    this.camera.aspect = box.width / box.height;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  private draw(): void {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.renderer.render(this.scene, this.camera);
      this.canvas.dataset.view = this.camera.position.toArray().map((value) => value.toFixed(3)).join(" ");
      this.canvas.dataset.points = String(this.thing?.geometry.getAttribute("position").count ?? 0);
    });
  }
}

function triangles(index: Int32Array, rows: number, columns: number): number[] {
  const faces: number[] = [];
  for (let r = 0; r + 1 < rows; r++) {
    for (let c = 0; c + 1 < columns; c++) {
      const at = r * columns + c;
      const [a, b, d, e] = [index[at], index[at + 1], index[at + columns], index[at + columns + 1]];
      if (b < 0 || d < 0) continue;
      if (a >= 0) faces.push(a, d, b);
      if (e >= 0) faces.push(b, d, e);
    }
  }
  return faces;
}
