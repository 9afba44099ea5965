// Labels as typed, and how each is shown.

import { PALETTE } from "./palette.js";

/** "sky, car|automobile" as [["sky"], ["car", "automobile"]]; what stands twice counts once. */
export function parse(text) {
  const seen = new Set();
  const found = [];
  for (const part of text.split(/[,\n]/)) {
    const names = [...new Set(part.split("|").map((name) => name.trim()).filter(Boolean))];
    if (names.length && !seen.has(names[0])) {
      seen.add(names[0]);
      found.push(names);
    }
  }
  return found;
}

/** The text that `parse` reads as these labels; each a name, or a list of synonyms. */
export function unparse(labels) {
  return labels.map((label) => (Array.isArray(label) ? label.join("|") : label)).join(", ");
}

/**
 * Labels for what is typed now. One that stays keeps its colour and whether it is shown. One that is being typed
 * ("gra", "gras", "grass") inherits both from what stood in its place, so colours do not flicker.
 *
 * @param {Label[]} previous
 * @param {string[][]} parsed
 */
export function reconcile(previous, parsed) {
  const known = new Map(previous.map((label) => [label.name, label]));
  const wanted = new Set(parsed.map((names) => names[0]));
  const taken = new Set(previous.filter((label) => wanted.has(label.name)).map((label) => label.colour));
  const labels = parsed.map((names) => {
    const label = known.get(names[0]);
    if (label) label.names = names;
    return label;
  });
  const replaced = parsed.length === previous.length;
  parsed.forEach((names, index) => {
    if (labels[index]) return;
    const before = replaced && !wanted.has(previous[index].name) ? previous[index] : null;
    const colour = before && !taken.has(before.colour) ? before.colour : unused(taken);
    taken.add(colour);
    labels[index] = { name: names[0], names, colour, shown: before ? before.shown : true };
  });
  return labels;
}

function unused(taken) {
  return PALETTE.find((colour) => !taken.has(colour)) ?? PALETTE[taken.size % PALETTE.length];
}
