// A picture's file becomes one that a model can use: its size, its kind, how many bytes it has. Knows no page and no conversation.
// Invariant: the result is a PNG or a JPEG of at most MAX_PICTURE_BYTES, with the right side up, without the place and time of a photo.

const LONGEST_SIDE = 1568; // of a picture for a model that takes any size; more would cost many tokens
const MAX_PICTURE_BYTES = 1_000_000;
const JPEG_QUALITY = 0.9;
const SMALLER = 0.75; // of each side, while it has too many bytes
const IS_DRAWN = new Set(["image/png", "image/gif", "image/bmp", "image/webp"]); // kinds that screenshots and drawings have

/** {blob, width, height} of a File. `size`: the side of the square that the model makes of every picture, if it does. Throws an Error for the user. */
export async function readPicture(file, size = null) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read`);
  }
  try {
    const { width, height } = fitted(bitmap, size);
    const isUsable = file.type === "image/png" && file.size <= MAX_PICTURE_BYTES && width === bitmap.width && height === bitmap.height;
    return isUsable ? { blob: file.slice(0, file.size, file.type), width, height } : await drawn(bitmap, width, height, IS_DRAWN.has(file.type));
  } finally {
    bitmap.close();
  }
}

/** Never larger than it is. The shorter side keeps what the model can use. */
export function fitted({ width, height }, size) {
  const longest = LONGEST_SIDE / Math.max(width, height);
  const scale = Math.min(1, longest, size ? size / Math.min(width, height) : longest);
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

async function drawn(bitmap, width, height, isLossless) {
  const canvas = document.createElement("canvas");
  for (;;) {
    Object.assign(canvas, { width, height });
    const blob = (isLossless && (await encoded(canvas, bitmap, "image/png"))) || (await encoded(canvas, bitmap, "image/jpeg"));
    if (blob) return { blob, width, height };
    width = Math.ceil(width * SMALLER);
    height = Math.ceil(height * SMALLER);
  }
}

/** Null: it has too many bytes. */
async function encoded(canvas, bitmap, type) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  if (type === "image/jpeg") { // what is transparent would be black
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, JPEG_QUALITY));
  if (!blob) throw new Error("This browser cannot resize the picture");
  return blob.size <= MAX_PICTURE_BYTES ? blob : null;
}
