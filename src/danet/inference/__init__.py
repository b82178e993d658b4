"""Inference: image in, Prediction or Encoding out, by the one path that all of the package takes."""
