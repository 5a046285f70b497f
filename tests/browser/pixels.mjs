// What the page looks like, in numbers.

/** A picture's file turned into a PNG by the browser. */
export async function toPng(page, file) {
  const url = await page.evaluate(async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    return canvas.toDataURL("image/png");
  }, file.toString("base64"));
  return Buffer.from(url.slice(url.indexOf(",") + 1), "base64");
}

/** A canvas: its size and its pixels, four bytes each. */
export async function pixelsOf(page, selector) {
  return page.locator(selector).evaluate((canvas) => {
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    return { width, height, data: [...data] };
  });
}

/** How many pixels differ between two views of the canvas. */
export function changedPixels(one, other) {
  let count = 0;
  for (let at = 0; at < one.data.length; at += 4) count += differs(one, other, at) ? 1 : 0;
  return count;
}

function differs(one, other, at) {
  return [0, 1, 2, 3].some((channel) => one.data[at + channel] !== other.data[at + channel]);
}

/**
 * The share of the layer's pixels that are painted where the entity's mask has them, and clear
 * elsewhere.
 */
export function overlayAgreement(layer, { mask }) {
  const inside = insideOf(mask);
  let agreeing = 0;
  for (let y = 0; y < layer.height; y += 1) {
    for (let x = 0; x < layer.width; x += 1) {
      const isPainted = layer.data[(y * layer.width + x) * 4 + 3] > 0;
      agreeing += isPainted === inside[x * layer.height + y] ? 1 : 0;
    }
  }
  return agreeing / (layer.width * layer.height);
}

/** A mask's pixels, column by column, from its plain run lengths. */
function insideOf(mask) {
  return mask.counts.flatMap((run, index) => new Array(run).fill(index % 2 === 1));
}

/** The contrast (WCAG 2) of the first such element's letters, and the luminance behind them. */
export async function contrast(page, selector) {
  const { ink, ground } = await page.locator(selector).first().evaluate((element) => {
    const ground = (from) => getComputedStyle(from).backgroundColor;
    let behind = element;
    while (behind !== document.body && /^rgba.*, 0\)$/.test(ground(behind))) behind = behind.parentElement;
    return { ink: getComputedStyle(element).color, ground: ground(behind) };
  });
  const [darker, lighter] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
  return { ratio: (lighter + 0.05) / (darker + 0.05), ground: luminance(ground) };
}

function luminance(colour) {
  const channels = colour.match(/[\d.]+/g).slice(0, 3).map((value) => {
    const part = Number(value) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2];
}
