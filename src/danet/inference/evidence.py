"""What a pixel's map says, as facts and as a line: whom it looks at, and whether its class hangs on that."""

from typing import Any

from danet.inference.encoding import Direction, Encoding
from danet.inference.explanation import TAKEN


def evidence(encoding: Encoding, at: tuple[int, int], direction: Direction) -> dict[str, Any]:
    """What the map of pixel `at` says, and whether the prediction there hangs on it."""
    names, taken = encoding.prediction.space.names, encoding.take_away(at, TAKEN)
    kinds = {"before": taken.before, "after": taken.after, "control": taken.control}
    best = {kind: {"class": names[one.argmax()], "confidence": float(one.max())} for kind, one in kinds.items()}
    return {
        "at": list(at),
        "class": best["before"]["class"],
        "perplexity": encoding.perplexity(at),
        "places": taken.removed.size,
        "by_class": encoding.by_class(at, direction),
        "take_away": {"share": TAKEN, "attention": taken.attention, **best},
    }


def in_words(facts: dict[str, Any], direction: Direction) -> str:
    """`evidence` in a line; of the classes at most three, none with less than a twentieth of the first."""
    shares = list(facts["by_class"].items())
    shown = [f"{100 * part:.0f} % {name}" for name, part in shares[:3] if part and part >= shares[0][1] / 20]
    classes = ", ".join(shown) or "nothing"
    taken = facts["take_away"]
    before, after, control = (
        f"{taken[kind]['class']} {100 * taken[kind]['confidence']:.0f} %" for kind in ("before", "after", "control")
    )
    return (
        f"{'looked at by ' if direction == 'to' else ''}{classes} · "
        f"{'looks at ' if direction == 'to' else ''}≈ {facts['perplexity']:,.0f} of {facts['places']:,} places · "
        f"without the most attended {100 * TAKEN:.0f} %: {before} → {after} (random {100 * TAKEN:.0f} %: {control})"
    )
