"""Text on pictures and in reports.

The font is DejaVu Sans, which comes with matplotlib: it has α, ‖ and accents; Pillow's has not.
"""

from functools import cache
from pathlib import Path

from PIL import ImageFont

GROUND, INK, MUTED = "#fbfaf7", "#14161a", "#6b6862"


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels an em."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def font_size(height: int, width: int) -> int:
    """The em, in pixels, that reads well beside a picture of this size: 12 for small ones, 1/36 of the shorter side."""
    return max(12, round(min(height, width) / 36))


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at blanks but not before %; a single word may be longer."""
    lines: list[str] = []
    for word in text.replace(" %", "\N{NO-BREAK SPACE}%").split(" "):
        if lines and face.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def duration(seconds: float) -> str:
    """`45 s`, `3 min 5 s`, `2 h 4 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
