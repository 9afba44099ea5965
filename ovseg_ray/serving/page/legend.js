// The list of labels: shown or not, colour, how much of the picture.

const percent = (share) => (share >= 0.995 || share === 0 ? `${Math.round(100 * share)} %`
  : share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

export class Legend {
  /**
   * @param {HTMLElement} list
   * @param {{onChange: () => void, onRemove: (label: object) => void, onPoint: (label: object | null) => void}} calls
   */
  constructor(list, calls) {
    this.list = list;
    this.calls = calls;
    this.rows = new Map(); // of each label object, so that a row keeps its focus while others come and go
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
        row.remove();
        this.rows.delete(label);
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
    row.addEventListener("pointerenter", () => this.calls.onPoint(label));
    row.addEventListener("pointerleave", () => this.calls.onPoint(null));
    row.addEventListener("focusin", (event) => {
      if (event.target.matches(":focus-visible")) this.calls.onPoint(label);
    });
    row.addEventListener("focusout", () => this.calls.onPoint(null));
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
