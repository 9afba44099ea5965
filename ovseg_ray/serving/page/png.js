// Grey PNGs of 8 and 16 bits as numbers. A canvas would give back colours: 8 bits of them, and in browsers that guard
// against fingerprinting slightly wrong ones.

const SIGNATURE = 8;

/**
 * @param {string} base64 of a PNG file: grey, 8 or 16 bits, not interlaced
 * @returns {Promise<{width: number, height: number, values: Uint8Array | Uint16Array}>} row by row
 */
export async function decodeGrey(base64) {
  const file = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(file.buffer);
  const parts = [];
  let header;
  for (let at = SIGNATURE; at < file.length;) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const start = at + 8;
    if (type === "IHDR") header = readHeader(view, start);
    if (type === "IDAT") parts.push(file.subarray(start, start + length));
    at = start + length + 4;
  }
  const { width, height, bytes } = header;
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = unfilter(new Uint8Array(await new Response(stream).arrayBuffer()), width * bytes, height, bytes);
  if (bytes === 1) return { width, height, values: raw };
  const wide = new DataView(raw.buffer);
  return { width, height, values: Uint16Array.from({ length: width * height }, (_, i) => wide.getUint16(2 * i)) };
}

function readHeader(view, at) {
  const depth = view.getUint8(at + 8);
  if (view.getUint8(at + 9) !== 0 || view.getUint8(at + 12) !== 0 || (depth !== 8 && depth !== 16)) {
    throw new Error("not a grey PNG of 8 or 16 bits");
  }
  return { width: view.getUint32(at), height: view.getUint32(at + 4), bytes: depth / 8 };
}

/** Rows as they were before each was filtered (PNG specification, section 9). */
function unfilter(data, stride, height, step) {
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = data[y * (stride + 1)];
    const from = y * (stride + 1) + 1;
    const to = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x >= step ? rows[to + x - step] : 0;
      const up = y ? rows[to + x - stride] : 0;
      const corner = y && x >= step ? rows[to + x - stride - step] : 0;
      rows[to + x] = data[from + x] + predicted(filter, left, up, corner);
    }
  }
  return rows;
}

function predicted(filter, left, up, corner) {
  switch (filter) {
    case 0: return 0;
    case 1: return left;
    case 2: return up;
    case 3: return (left + up) >> 1;
    default: {
      const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      return a <= b && a <= c ? left : b <= c ? up : corner;
    }
  }
}
