"""Classifiers in ONNX files, rebuilt of torch's layers: `reading`, `functions`, `layers`, `network`."""
