"""A student for users: safetensors and model.json, an exported program, ONNX, a model card."""
