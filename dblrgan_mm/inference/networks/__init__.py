"""The generators, rewritten for inference: strip by strip, in int8, or from an ONNX file."""
