/** A photo from the device's camera. */

import { element } from "./dom";

export class Camera {
  private readonly dialog = element("camera", HTMLDialogElement);
  private readonly video = element("video", HTMLVideoElement);
  private stream: MediaStream | null = null;

  constructor(taken: (photo: Blob) => void) {
    element("snap", HTMLButtonElement).addEventListener("click", () => {
      const canvas = document.createElement("canvas");
      canvas.width = this.video.videoWidth;
      canvas.height = this.video.videoHeight;
      canvas.getContext("2d")!.drawImage(this.video, 0, 0);
      canvas.toBlob((photo) => {
        this.dialog.close();
        if (photo) taken(photo);
      }, "image/png");
    });
    element("camera-close", HTMLButtonElement).addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      this.stream?.getTracks().forEach((track) => track.stop());
      this.stream = null;
      this.video.srcObject = null;
    });
  }

  /** Ask for the camera and show what it sees. */
  async open(): Promise<void> {
    // mediaDevices is missing where the page came neither over https nor from this machine.
    if (!navigator.mediaDevices) throw new Error("no camera");
    this.stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } },
    });
    this.video.srcObject = this.stream;
    this.dialog.showModal();
    await this.video.play();
  }
}
