"""Export of BERT-family weights to ONNX graphs."""
