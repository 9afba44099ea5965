// A file as a picture that the server takes: upright, not larger than anybody can see, in a format it knows.

import { Problem } from "./api.js";

const LONGEST = 2048;
const TAKEN = ["image/jpeg", "image/png", "image/webp"];
const MOST_BYTES = 16 * 2 ** 20;

/**
 * The file as it is where it will do; else drawn anew, which makes anything that the browser can show acceptable
 * (HEIC, AVIF, GIF) and spares a phone from sending 12 megapixels.
 *
 * @param {Blob} file
 * @returns {Promise<{blob: Blob, width: number, height: number, reduced: boolean}>}
 */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Problem("not_a_picture", file.name || "What you gave");
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  if (scale === 1 && TAKEN.includes(file.type) && file.size <= MOST_BYTES) {
    bitmap.close();
    return { blob: file, width, height, reduced: false };
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return { blob, width: canvas.width, height: canvas.height, reduced: scale < 1 };
}

/** The first file in what was dropped or pasted, if there is one. */
export function fileOf(transfer) {
  return [...(transfer?.files ?? [])][0] ?? null;
}
