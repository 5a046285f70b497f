"""Golden files for tests/golden_vision.rs: what Pillow makes of pictures.

    python training/golden/vision.py

Needs pillow before 12, numpy, safetensors. (Later ones resample columns first where a picture is
very tall or is made wider and lower; the published networks were trained with the older order.)
Writes tests/golden/vision/resize.safetensors (outputs of Image.resize on noise that the test
makes itself) and tests/golden/vision/decode.safetensors (files written by Pillow, and the upright
RGB pixels that Pillow reads from them).
"""

import io
import pathlib

import numpy as np
import PIL
from PIL import Image, ImageOps
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "vision"

RESIZES = [
    ((37, 53), (20, 20)),
    ((37, 53), (64, 48)),
    ((37, 53), (37, 20)),
    ((37, 53), (20, 53)),
    ((1, 1), (5, 7)),
    ((5, 7), (1, 1)),
    ((300, 200), (33, 21)),
    ((640, 427), (128, 128)),
    ((50, 40), (150, 131)),
    ((12000, 9), (64, 64)),
    ((9, 12000), (64, 64)),
    ((2, 3), (61, 2)),
]


def noise(width, height):
    """Pixels that the test can make as well: the high byte of a linear congruential generator."""
    state, values = 1, np.empty(3 * width * height, np.uint8)
    for index in range(values.size):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[index] = state >> 24
    return Image.fromarray(values.reshape(height, width, 3))


def resizes():
    tensors = {}
    for source, target in RESIZES:
        picture = noise(*source)
        for name, resample in [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]:
            key = "{}x{}-{}x{}-{}".format(*source, *target, name)
            tensors[key] = np.asarray(picture.resize(target, resample))
    return tensors


def scene(width=40, height=26):
    """A smooth picture without any symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 255 * x / (width - 1)
    green = 255 * (y / (height - 1)) ** 2
    blue = 127 + 120 * np.sin(x / 5 + y / 9)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def saved(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def files():
    rgb = scene()
    alpha = Image.fromarray(np.linspace(0, 255, rgb.width * rgb.height).astype(np.uint8).reshape(rgb.height, rgb.width))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    palette = rgb.quantize(64)
    see_through = palette.copy()
    see_through.info["transparency"] = 7
    second = ImageOps.invert(rgb)
    yield "jpeg-rgb", saved(rgb, "JPEG", quality=92)
    yield "jpeg-444", saved(rgb, "JPEG", quality=92, subsampling=0)
    yield "jpeg-progressive", saved(rgb, "JPEG", quality=92, progressive=True)
    yield "jpeg-restarts", saved(rgb, "JPEG", quality=92, restart_marker_blocks=1)
    yield "jpeg-grey", saved(grey, "JPEG", quality=92)
    yield "jpeg-cmyk", saved(rgb.convert("CMYK"), "JPEG", quality=92)
    yield "png-rgb", saved(rgb, "PNG")
    yield "png-rgba", saved(rgba, "PNG")
    yield "png-grey", saved(grey, "PNG")
    yield "png-grey_alpha", saved(rgba.convert("LA"), "PNG")
    yield "png-palette", saved(palette, "PNG")
    yield "png-palette_alpha", saved(see_through, "PNG", transparency=7)
    yield "png-bits", saved(grey.convert("1"), "PNG")
    yield "png-animated", saved(rgb, "PNG", save_all=True, append_images=[second])
    yield "webp-lossless", saved(rgb, "WEBP", lossless=True)
    yield "webp-lossless_alpha", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "webp-lossy", saved(rgb, "WEBP", quality=92)
    yield "webp-lossy_alpha", saved(rgba, "WEBP", quality=92)
    yield "webp-animated", saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[second])
    yield "gif-still", saved(palette, "GIF")
    yield "gif-transparent", saved(see_through, "GIF", transparency=7)
    yield "gif-animated", saved(palette, "GIF", save_all=True, append_images=[second])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"png-orientation_{orientation}", saved(rgb, "PNG", exif=exif)
        yield f"jpeg-orientation_{orientation}", saved(rgb, "JPEG", quality=95, exif=exif)
        yield f"webp-orientation_{orientation}", saved(rgb, "WEBP", lossless=True, exif=exif)


def decoded(file):
    """Upright, on white, 8-bit RGB."""
    picture = Image.open(io.BytesIO(file))
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def main():
    assert int(PIL.__version__.split(".")[0]) < 12, "see above"
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(resizes(), OUT / "resize.safetensors")
    tensors = {}
    for name, file in files():
        tensors[f"{name}.file"] = np.frombuffer(file, np.uint8)
        tensors[f"{name}.pixels"] = np.ascontiguousarray(decoded(file))
    # Pillow reduces 16 bits by clipping, so these pixels are stated here.
    deep = np.linspace(0, 65535, 40 * 26).astype(np.uint16).reshape(26, 40)
    file = saved(Image.fromarray(deep), "PNG")
    tensors["png-grey_16.file"] = np.frombuffer(file, np.uint8)
    grey = np.round(deep / 257).astype(np.uint8)
    tensors["png-grey_16.pixels"] = np.ascontiguousarray(np.stack([grey] * 3, -1))
    save_file(tensors, OUT / "decode.safetensors")


if __name__ == "__main__":
    main()
