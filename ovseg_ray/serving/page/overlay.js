// Colours of labels over a picture.

const SMALLEST = 640; // smaller maps are painted enlarged, so that outlines stay thin
const OUTLINE = pixel(255, 255, 255, 230);
const DIM = 0.22;

/**
 * @param {{width: number, height: number, map: ArrayLike<number>, confidence: ArrayLike<number>}} found
 *   label and confidence (0..255) of each pixel
 * @param {{colour: string, shown: boolean}[]} labels by their number in the map
 * @param {{floor: number, highlight: object | null}} view pixels below `floor` (0..1) stay bare; all labels but
 *   `highlight` are dimmed, unless it is nowhere to be seen
 * @returns {ImageData} of the picture's proportions
 */
export function paint(found, labels, view) {
  const { width, height } = found;
  const factor = Math.max(1, Math.ceil(SMALLEST / Math.max(width, height)));
  const colours = small(found, labels, view);
  const image = new ImageData(width * factor, height * factor);
  const out = new Uint32Array(image.data.buffer);
  const wide = width * factor;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const colour = colours[at];
      const right = x + 1 < width && colours[at + 1] !== colour;
      const below = y + 1 < height && colours[at + width] !== colour;
      if (factor === 1) { // large pictures: millions of calls less
        out[at] = right || below ? OUTLINE : colour;
        continue;
      }
      const first = y * factor * wide + x * factor;
      for (let row = 0; row < factor; row++) {
        out.fill(below && row === factor - 1 ? OUTLINE : colour, first + row * wide, first + row * wide + factor);
        if (right) out[first + row * wide + factor - 1] = OUTLINE;
      }
    }
  }
  return image;
}

function small({ width, height, map, confidence }, labels, { floor, highlight }) {
  const least = Math.round(255 * floor);
  const lit = highlight?.shown ? labels.indexOf(highlight) : -1;
  let dims = false;
  for (let i = 0; lit >= 0 && !dims && i < map.length; i++) dims = map[i] === lit && confidence[i] >= least;
  const table = labels.map((label) => {
    const value = parseInt(label.colour.slice(1), 16);
    const alpha = !label.shown ? 0 : dims && highlight !== label ? 255 * DIM : 255;
    return alpha ? pixel(value >> 16, (value >> 8) & 255, value & 255, alpha) : 0;
  });
  const colours = new Uint32Array(width * height);
  for (let i = 0; i < colours.length; i++) {
    if (confidence[i] >= least && map[i] < table.length) colours[i] = table[map[i]];
  }
  return colours;
}

function pixel(red, green, blue, alpha) {
  return new Uint32Array(Uint8Array.of(red, green, blue, alpha).buffer)[0]; // whatever the byte order
}

/** Share of the picture (0..1) and mean confidence (0..1) of each label. */
export function measure({ map, confidence }, count) {
  const pixels = new Float64Array(count);
  const sure = new Float64Array(count);
  for (let i = 0; i < map.length; i++) {
    if (map[i] < count) {
      pixels[map[i]]++;
      sure[map[i]] += confidence[i];
    }
  }
  return Array.from(pixels, (n, i) => ({ share: n / map.length, confidence: n ? sure[i] / n / 255 : 0 }));
}
