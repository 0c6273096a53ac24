"""The parts of the writer (`verifkit.io.onnx_writer`): how maps and functions become ONNX nodes."""
