"""A network as a custom operator in C for ONNX Runtime: the fastest form, on machines where it can be built.

``writing`` makes such a file; ``condensenet.deploy.runtime`` loads the operator library and registers it with every
session. Nothing is imported here: running a file needs neither torch nor onnx.
"""
