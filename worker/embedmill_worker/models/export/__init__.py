"""Weights of the BERT family written as ONNX graphs."""
