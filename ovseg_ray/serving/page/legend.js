// The list of labels: shown or not, colour, how much of the picture.

const percent = (share) => (share >= 0.995 || share === 0 ? `${Math.round(100 * share)} %`
  : share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

const SLACK = 6; // pixels that a hand may slip after a press without pointing at anything else

export class Legend {
  /**
   * @param {HTMLElement} list
   * @param {{onChange: () => void, onRemove: (label: object) => void, onPoint: (label: object | null) => void}} calls
   */
  constructor(list, calls) {
    this.list = list;
    this.calls = calls;
    this.rows = new Map(); // of each label object, so that a row keeps its focus while others come and go
    this.pointed = null;
    this.watch();
  }

  /** Tells whether the pointer moved: rows that come to lie under one at rest are not pointed at. */
  watch() {
    let [rest, slack] = [null, 0];
    this.moved = false;
    const settle = (event, pixels) => ([rest, slack] = [event, pixels]);
    document.addEventListener("pointerdown", (event) => settle(event, SLACK), { capture: true, passive: true });
    document.addEventListener("pointermove", (event) => {
      const way = rest ? Math.hypot(event.clientX - rest.clientX, event.clientY - rest.clientY) : Infinity;
      this.moved = way > slack;
      if (this.moved) settle(event, 0);
    }, { capture: true, passive: true });
  }

  point(label) {
    if (label === this.pointed) return;
    this.pointed = label;
    this.calls.onPoint(label);
  }

  /**
   * @param {object[]} labels
   * @param {import("./pane.js").Pane[]} panes whose measures are shown, in their order
   */
  show(labels, panes) {
    const wanted = labels.map((label) => {
      if (!this.rows.has(label)) this.rows.set(label, this.row(label));
      return this.rows.get(label);
    });
    for (const [label, row] of this.rows) {
      if (!labels.includes(label)) {
        this.rows.delete(label);
        row.remove();
        if (label === this.pointed) this.point(null); // not every browser says that the pointer has left it
      }
    }
    wanted.forEach((row, index) => {
      if (this.list.children[index] !== row) this.list.insertBefore(row, this.list.children[index] ?? null);
      this.update(row, labels[index], panes);
    });
  }

  row(label) {
    const row = document.createElement("li");
    row.innerHTML = `
      <label class="switch"><input type="checkbox"><span class="name"></span></label>
      <span class="share"></span>
      <input type="color">
      <button type="button" class="remove">×</button>`;
    const [shown, colour] = [row.querySelector("[type=checkbox]"), row.querySelector("[type=color]")];
    const remove = row.querySelector("button");
    colour.setAttribute("aria-label", `Colour of ${label.name}`);
    remove.setAttribute("aria-label", `Remove ${label.name}`);
    shown.addEventListener("change", () => {
      label.shown = shown.checked;
      this.calls.onChange();
    });
    colour.addEventListener("input", () => {
      label.colour = colour.value;
      this.calls.onChange();
    });
    remove.addEventListener("click", () => this.calls.onRemove(label));
    row.addEventListener("pointermove", (event) => {
      if (this.moved && event.pointerType !== "touch") this.point(label); // a finger that moves scrolls
    });
    row.addEventListener("pointerleave", () => this.point(null));
    row.addEventListener("focusin", (event) => {
      if (event.target.matches(":focus-visible")) this.point(label);
    });
    row.addEventListener("focusout", () => this.point(null));
    return row;
  }

  update(row, label, panes) {
    const measures = panes.map((pane) => pane.measureOf(label));
    row.querySelector("[type=checkbox]").checked = label.shown;
    row.querySelector("[type=color]").value = label.colour;
    row.querySelector(".name").textContent = label.names.join(" | ");
    row.style.setProperty("--colour", label.colour);
    row.style.setProperty("--share", String(measures[0]?.share ?? 0));
    const share = row.querySelector(".share");
    share.textContent = measures.map((m) => (m ? percent(m.share) : "–")).join(" / ");
    share.title = measures
      .map((m) => (m && m.share ? `${percent(m.share)} of the picture, ${percent(m.confidence)} sure` : "not found"))
      .join(" / ");
    row.classList.toggle("absent", measures.every((m) => m?.share === 0));
  }
}
