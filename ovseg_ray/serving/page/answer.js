// What /v1/segment answers, as arrays.

import { decodeGrey } from "./png.js";

/**
 * @param {object} response of /v1/segment with `label_map` and `confidence`
 * @returns {Promise<{width: number, height: number, map: ArrayLike<number>, confidence: Uint8Array, ms: number,
 *   known: boolean}>} label number and confidence (0..255) of each pixel, row by row; the server's time; whether the
 *   picture had been encoded before
 */
export async function readAnswer(response) {
  const [map, confidence] = await Promise.all([response.label_map.png, response.confidence.png].map(decodeGrey));
  return {
    width: map.width,
    height: map.height,
    map: map.values,
    confidence: confidence.values,
    ms: response.timings.total,
    known: response.cache.image,
  };
}
