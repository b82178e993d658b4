"""Pictures: label overlays, attention maps, curves, and one self-contained HTML report."""
