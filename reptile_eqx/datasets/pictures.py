"""One picture out of the bytes of a file that a stranger made, or a plain word on what is wrong with it."""

import io
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .common import DataError

# No picture comes near this; what does would only fill the memory.
MOST_PIXELS = 10**8

# What Pillow reads by itself: no format here starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# In a whole file the image's end follows the last start of a scan; nothing inside a scan looks like either. Pillow
# takes a file that lacks only its end, and, told to load truncated images, one cut anywhere.
_START_AND_END = {"PNG": (b"IDAT", b"IEND"), "JPEG": (b"\xff\xda", b"\xff\xd9")}


@contextmanager
def decoding() -> Generator[None]:
    """Turn what Pillow makes of a damaged picture, which is no closed list of errors, into `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot be decoded ({str(error) or type(error).__name__})") from error


def opened(content: bytes, formats: tuple[str, ...] = FORMATS, size: tuple[int, int] | None = None) -> Image.Image:
    """The picture in a file's bytes, decoded whole; raises `DataError` where there is none, or one of another size."""
    if not content:
        raise DataError("is empty")
    with decoding():
        try:
            image = Image.open(io.BytesIO(content), formats=formats)
        except UnidentifiedImageError as error:
            raise DataError(f"is no {' or '.join(formats)} image") from error
        with image:
            start, end = _START_AND_END.get(image.format or "", (b"", b""))
            if content.rfind(end) < content.rfind(start):
                raise DataError("is truncated")
            if size is not None and image.size != size:
                raise DataError(f"is {image.width}×{image.height} pixels; expected {size[0]}×{size[1]}")
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"is {image.width}×{image.height} pixels, too large for a picture")
            image.load()
            return image


def plain(image: Image.Image, *, grey: bool) -> Image.Image:
    """A picture of any mode as RGB or grey bytes, upright as its EXIF says, on white where it is transparent."""
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    image = ImageOps.exif_transpose(image)
    if sixteen_bits:  # which convert() would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError("has pixels of 32 bits; expected 8 or 16: save it as PNG or JPEG")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")
