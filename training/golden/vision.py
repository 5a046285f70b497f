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
import struct
import zlib

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


def ycck(picture):
    """A JPEG whose four channels are YCbCr and black, as Adobe's programs write them. Pillow writes
    CMYK only, inverted: so the channels are put where it looks for inverted ink, and the mark that
    says what they mean (APP14, the transform) is changed."""
    ink = picture.convert("CMYK").split()
    black = ink[0].point(lambda value: value // 2)
    inverted = [band.point(lambda value: 255 - value) for band in ink[:3]]
    luma = Image.merge("RGB", inverted).convert("YCbCr").split()
    stored = [band.point(lambda value: 255 - value) for band in luma] + [black]
    file = bytearray(saved(Image.merge("CMYK", stored), "JPEG", quality=95))
    transform = file.index(b"Adobe") + 11
    assert file[transform] == 0
    file[transform] = 2
    return bytes(file)


def png(size, depth, colour, scanlines, interlaced=False):
    """A PNG file from its filtered scanlines."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(interlaced))
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines, 9))
    return b"\x89PNG\r\n\x1a\n" + image + chunk(b"IEND", b"")


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def interlaced(picture):
    """Adam7, which Pillow reads but does not write."""
    pixels = np.asarray(picture)
    passes = [pixels[y::down, x::right] for x, y, right, down in ADAM7]
    lines = b"".join(b"\0" + line.tobytes() for part in passes for line in part)
    return png(picture.size, 8, 2, lines, interlaced=True)


def deep_rgb(size):
    width, height = size
    values = np.linspace(0, 65535, width * height * 3).astype(">u2").reshape(height, width * 3)
    return png(size, 16, 2, b"".join(b"\0" + line.tobytes() for line in values))


def on_a_larger_screen(gif, size, place):
    """The same frame at some place of a larger logical screen."""
    frame = struct.unpack("<HH", gif[6:10])
    file = bytearray(gif)
    file[6:10] = struct.pack("<HH", *size)
    descriptor = gif.index(b"," + struct.pack("<HHHH", 0, 0, *frame))
    file[descriptor + 1 : descriptor + 5] = struct.pack("<HH", *place)
    return bytes(file)


def webp_frame_on_a_canvas(picture, size, place):
    """An animation of one frame that covers a part of the canvas; even places only."""

    def chunk(kind, data):
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def wide(value):
        return struct.pack("<I", value)[:3]

    still = saved(picture, "WEBP", lossless=True)
    assert still[12:16] == b"VP8L"
    width, height = picture.size
    frame = wide(place[0] // 2) + wide(place[1] // 2) + wide(width - 1) + wide(height - 1)
    frame += wide(100) + b"\0" + still[12:]
    canvas = b"\x12\0\0\0" + wide(size[0] - 1) + wide(size[1] - 1)
    chunks = chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return chunk(b"RIFF", b"WEBP" + chunks)


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
    yield "jpeg-ycck", ycck(rgb)
    yield "png-adam7", interlaced(rgb)
    yield "png-rgb_16", deep_rgb(rgb.size)
    corner = rgb.getpixel((0, 0))
    yield "png-rgb_key", saved(rgb, "PNG", transparency=corner)
    yield "png-grey_key", saved(grey, "PNG", transparency=grey.getpixel((9, 9)))
    small = scene(20, 13)
    still = saved(small.quantize(64), "GIF", transparency=7)
    yield "gif-part", on_a_larger_screen(still, rgb.size, (6, 8))
    yield "webp-part", webp_frame_on_a_canvas(small, rgb.size, (6, 8))
    # The mark before Exif data belongs into JPEG files only; here it stands in others.
    exif = Image.Exif()
    exif[0x0112] = 6
    marked = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    yield "webp-orientation_marked", saved(rgb, "WEBP", lossless=True, exif=marked)
    bare = saved(rgb, "PNG")
    chunk = b"eXIf" + marked
    chunk = struct.pack(">I", len(marked)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    yield "png-orientation_marked", bare[:33] + chunk + bare[33:]
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
