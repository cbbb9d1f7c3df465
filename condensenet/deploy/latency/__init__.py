"""Latency of ONNX files, timed alternately with MobileNetV1. Needs NumPy and ONNX Runtime, not torch."""

from condensenet.deploy.latency.measure import Latency, measure_latency
from condensenet.deploy.latency.mobilenet import write_mobilenet_v1
from condensenet.deploy.latency.time_files import as_facts, describe, is_unsteady, time_files

__all__ = [
    "Latency",
    "as_facts",
    "describe",
    "is_unsteady",
    "measure_latency",
    "time_files",
    "write_mobilenet_v1",
]
