/** Pictures put together in one: tiles and sheets. */

const TIMES = 3; // a tile is repeated, across and down

/** @param {HTMLCanvasElement} canvas @param {CanvasImageSource} picture @param {boolean} half shift every other column by half */
export function drawTiles(canvas, picture, half) {
  const { width, height } = picture;
  Object.assign(canvas, { width: TIMES * width, height: TIMES * height });
  const context = canvas.getContext("2d");
  for (let x = 0; x < TIMES; x += 1) {
    const shift = half && x % 2 ? -height / 2 : 0;
    for (let y = 0; y <= TIMES; y += 1) context.drawImage(picture, x * width, y * height + shift);
  }
}

/** @param {HTMLCanvasElement} canvas @param {{name: string, image: ?ImageBitmap}[]} sprites each is fitted into a cell */
export function drawSheet(canvas, sprites, columns, cell) {
  const rows = Math.max(1, Math.ceil(sprites.length / columns));
  Object.assign(canvas, { width: columns * cell, height: rows * cell });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  sprites.forEach(({ image }, i) => {
    if (!image) return;
    const scale = cell / Math.max(image.width, image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    context.drawImage(image, (i % columns) * cell + (cell - width) / 2, Math.floor(i / columns) * cell + (cell - height) / 2, width, height);
  });
}
