// One model's view of the picture: colours over it, and what is under the pointer.

import { measure, paint } from "./overlay.js";

const STEP = 0.02; // of the picture, for each press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pane {
  /**
   * @param {string} model "NAME@VERSION"
   * @param {string} title what people read
   * @param {(at: {x: number, y: number} | null, spoken: boolean) => void} onProbe a place (0..1), for all panes
   */
  constructor(model, title, onProbe) {
    this.model = model;
    this.onProbe = onProbe;
    this.found = null;
    this.labels = [];
    this.measures = [];
    this.at = null;
    this.build(title);
    this.listen();
  }

  build(title) {
    this.element = document.createElement("figure");
    this.element.className = "pane";
    this.element.innerHTML = `
      <div class="view" tabindex="0" role="group">
        <img alt=""><canvas></canvas><span class="cross" hidden></span><span class="tip" hidden></span>
      </div>
      <figcaption><strong></strong><span class="time"></span></figcaption>`;
    const part = (selector) => this.element.querySelector(selector);
    [this.view, this.image, this.canvas] = [part(".view"), part("img"), part("canvas")];
    [this.cross, this.tip, this.time] = [part(".cross"), part(".tip"), part(".time")];
    this.view.setAttribute("aria-label", `Picture as ${title} sees it; arrow keys tell what is where`);
    part("strong").textContent = title;
  }

  setPicture({ url, width, height, name }) {
    this.image.src = url;
    this.image.alt = name;
    this.view.style.setProperty("--ratio", String(width / height));
    this.found = null;
    this.canvas.width = this.canvas.height = 1;
    this.time.textContent = "";
    this.probe(null);
  }

  /** @param {Answer} answer from `readAnswer`; `labels` are those that were asked, by their number */
  setAnswer(answer, labels) {
    this.found = answer;
    this.labels = labels;
    this.measures = measure(answer, labels.length);
    this.time.textContent = `${Math.max(1, Math.round(answer.ms))} ms, picture ${answer.known ? "known" : "encoded"}`;
  }

  /** Nothing is asked: the bare picture. */
  clear() {
    this.found = null;
    this.labels = [];
    this.measures = [];
    this.time.textContent = "";
    this.canvas.width = this.canvas.height = 1;
    this.probe(this.at);
  }

  redraw(view) {
    if (!this.found) return;
    this.floor = view.floor;
    const image = paint(this.found, this.labels, view);
    this.canvas.width = image.width;
    this.canvas.height = image.height;
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.probe(this.at);
  }

  /** Share and confidence of a label here, if it was asked for. */
  measureOf(label) {
    return this.measures[this.labels.indexOf(label)] ?? null;
  }

  /** Show what is at a place (0..1); null: nothing. Returns it in words. */
  probe(at) {
    this.at = at;
    const words = at && this.found ? this.read(at) : "";
    this.cross.hidden = this.tip.hidden = !words;
    if (!words) return "";
    this.tip.textContent = words;
    for (const element of [this.cross, this.tip]) {
      element.style.left = `${100 * at.x}%`;
      element.style.top = `${100 * at.y}%`;
    }
    this.tip.classList.toggle("leftwards", at.x > 0.6);
    this.tip.classList.toggle("upwards", at.y > 0.75);
    return words;
  }

  read({ x, y }) {
    const { width, height, map, confidence } = this.found;
    const column = Math.min(width - 1, Math.floor(x * width));
    const pixel = Math.min(height - 1, Math.floor(y * height)) * width + column;
    const label = this.labels[map[pixel]];
    if (!label) return "no label";
    const sure = confidence[pixel] / 255;
    return `${label.name}, ${Math.round(100 * sure)} % sure${sure < (this.floor ?? 0) ? " (hidden)" : ""}`;
  }

  listen() {
    const place = (event) => {
      const box = this.view.getBoundingClientRect();
      const clamp = (value) => Math.min(0.9999, Math.max(0, value));
      this.onProbe(
        { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) }, false,
      );
    };
    this.view.addEventListener("pointermove", place);
    this.view.addEventListener("pointerdown", place);
    this.view.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.onProbe(null, false); // a finger leaves with every tap
    });
    this.view.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.onProbe(null, false);
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault();
      const from = this.at ?? { x: 0.5, y: 0.5 };
      const step = STEP * (event.shiftKey ? 5 : 1);
      const move = (value, by) => Math.min(0.9999, Math.max(0, value + by * step));
      this.onProbe({ x: move(from.x, arrow[0]), y: move(from.y, arrow[1]) }, true);
    });
  }
}
