"""One picture out of the bytes of a file that a stranger made, or a plain word on what is wrong with it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .common import DataError

# No picture comes near these; what does would only fill the memory.
MOST_BYTES = 2**28
MOST_PIXELS = 10**8

# What Pillow reads by itself: no format here starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# In a whole file the image's end follows the last start of a scan; nothing inside a scan looks like either. Pillow
# takes a file that lacks only its end, and, told to load truncated images, one cut anywhere.
_START_AND_END = {"PNG": (b"IDAT", b"IEND"), "JPEG": (b"\xff\xda", b"\xff\xd9")}


def contents(path: Path) -> bytes:
    """A regular file's bytes; raises `DataError` where it is no such file, is too large or cannot be read."""
    try:
        if not path.is_file():  # A named pipe would be waited for, a device read for ever.
            raise DataError("is no regular file" if path.exists() else "is a link that leads nowhere")
        size = path.stat().st_size
        if size <= MOST_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error})") from error
    raise DataError(f"has {size:,} bytes, more than any picture")


def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture in a file's bytes, decoded whole; raises `DataError` where there is none."""
    if not content:
        raise DataError("is empty")
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            start, end = _START_AND_END.get(image.format or "", (b"", b""))
            if content.rfind(end) < content.rfind(start):
                raise DataError("is truncated")
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"is {image.width}×{image.height} pixels, too large for a picture")
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise DataError(f"is no {' or '.join(formats)} image") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"cannot be decoded ({error})") from error


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
