"""Dense blocks as one operator each, in C, for ONNX Runtime: the fastest form, where its library could be built.

``writing`` makes such a file; ``condensenet.deploy.runtime`` finds the library and registers it with every session.
Nothing is imported here: who runs a file needs neither torch nor onnx.
"""
