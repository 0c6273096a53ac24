"""From an ONNX graph to a network: `graph` reads the file's graph, `table` says which rule lowers which operator.

The rules stand in files by kind. What no rule takes is refused by name (`refused`, `dialects`).
"""
