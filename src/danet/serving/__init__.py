"""A server around the page and the Segmenter: images in, labels and attention out, nothing kept."""
