"""The process in which ``benchmarks/runtimes.py`` runs one inference runtime, with the Python of its environment.

    python benchmarks/runtime_worker.py RUNTIME FOLDER THREADS

It reads one JSON request a line. ``{"load": FILE, "image": FILE, "expected": FILE}`` converts and loads an ONNX file
and answers with the largest difference from the expected output, relative to its largest value. ``{"time": [FILE,
...], "clock": NAME}`` runs these files once each, one after the other, and answers with their milliseconds by the clock
``wall`` or ``cpu``. Converted files stay in FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

Runner = Callable[[], Any]  # returns what ``np.asarray`` takes
WARM_UP = 3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Failed(Exception):
    """A file that a runtime cannot convert or load; the message is one line."""


def onnxruntime(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """With the options and the native operators of the library."""
    session = import_module("condensenet.deploy.runtime").open_session(path, threads)
    return lambda: session.run(None, {"image": image})[0]


def openvino(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """In single precision: where the processor has AMX, the default is bfloat16."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = import_module("openvino").Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer({"image": image})[0]


def litert(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """Converted by litert-torch; XNNPACK computes."""
    converted = folder / "model.tflite"
    if not converted.exists():
        convert = import_module("litert_torch").convert
        convert(onnx_module(path), (import_module("torch").from_numpy(image),)).export(str(converted))
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(converted), num_threads=threads)
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> Any:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def mnn(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    converted, module = folder / "model.mnn", import_module("MNN")
    if not converted.exists():
        arguments = ["-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted), "--bizCode", "model"]
        import_module("_tools").mnnconvert(["mnnconvert", *arguments])  # its program would also report to its makers
        if not converted.exists():
            raise Failed("mnnconvert cannot convert it")
    interpreter = module.Interpreter(str(converted))
    session = interpreter.createSession({"numThread": threads, "precision": "high"})
    source = interpreter.getSessionInput(session)
    interpreter.resizeTensor(source, image.shape)
    interpreter.resizeSession(session)
    layout = module.Halide_Type_Float, image, module.Tensor_DimensionType_Caffe
    host = module.Tensor(image.shape, *layout)

    def run() -> Any:
        source.copyFrom(host)
        interpreter.runSession(session)
        output = interpreter.getSessionOutput(session)
        shape = output.getShape()
        logits = module.Tensor(shape, layout[0], np.empty(shape, np.float32), layout[2])
        output.copyToHostTensor(logits)
        return np.array(logits.getNumpyData())  # the tensor owns what this copies

    return run


def ncnn(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """Converted by pnnx, in single precision."""
    source, module = folder / "model.onnx", import_module("ncnn")
    converted = [folder / f"model.ncnn.{kind}" for kind in ("param", "bin")]
    if not all(file.exists() for file in converted):
        spec = util.find_spec("pnnx")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        source.write_bytes(path.read_bytes())
        shape = ",".join(map(str, image.shape))
        call([Path(spec.submodule_search_locations[0]) / "pnnx", source, f"inputshape=[{shape}]", "fp16=0"], folder)
    net = module.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(converted[0])) or net.load_model(str(converted[1])):
        raise Failed("ncnn cannot load what pnnx wrote: it has a layer that ncnn lacks")

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", module.Mat(image[0]))
        status, output = extractor.extract("out0")
        if status:
            raise Failed("ncnn cannot run what pnnx wrote: Gather has no counterpart in ncnn")
        return np.array(output)

    return run


def torch_compile(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    torch = import_module("torch")
    torch.set_num_threads(threads)
    compiled, tensor = torch.compile(onnx_module(path)), torch.from_numpy(image)

    def run() -> Any:
        with torch.inference_mode():
            return compiled(tensor)

    return run


def executorch(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """Lowered to XNNPACK; what XNNPACK lacks runs in portable kernels."""
    torch, converted = import_module("torch"), folder / "model.pte"
    if not converted.exists():
        partitioner = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
        exported = torch.export.export(onnx_module(path), (torch.from_numpy(image),))
        edge = import_module("executorch.exir").to_edge_transform_and_lower(exported, partitioner=[partitioner])
        converted.write_bytes(edge.to_executorch().buffer)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # it has no public setting of its own
    method = import_module("executorch.runtime").Runtime.get().load_program(converted).load_method("forward")
    tensor = torch.from_numpy(image)
    return lambda: method.execute([tensor])[0]


def iree(path: Path, folder: Path, threads: int, image: np.ndarray) -> Runner:
    """Compiled for this processor; one thread runs in the caller."""
    middle, converted, programs = folder / "model.mlir", folder / "model.vmfb", Path(sys.executable).parent
    if not converted.exists():
        call([programs / "iree-import-onnx", path, "-o", middle], folder)
        target = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
        flags = [*target, "--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"]
        call([programs / "iree-compile", middle, *flags, "-o", converted], folder)
    runtime = import_module("iree.runtime")
    context = runtime.SystemContext(config=runtime.Config("local-sync" if threads == 1 else "local-task"))
    context.add_vm_module(runtime.VmModule.mmap(context.instance, str(converted)))
    module = context.modules.module
    names = [name for name in module.vm_module.function_names if not name.startswith("__") and "$" not in name]
    function = module[names[0]]
    return lambda: function(image).to_host()


RUNTIMES: dict[str, tuple[str, Callable[[Path, Path, int, np.ndarray], Runner]]] = {  # (distribution, function)
    "onnxruntime": ("onnxruntime", onnxruntime),
    "openvino": ("openvino", openvino),
    "litert": ("ai-edge-litert", litert),
    "mnn": ("MNN", mnn),
    "ncnn": ("ncnn", ncnn),
    "torch.compile": ("torch", torch_compile),
    "executorch": ("executorch", executorch),
    "iree": ("iree-base-runtime", iree),
}


def onnx_module(path: Path) -> Any:
    return import_module("benchmarks.onnx_modules").OnnxModule(path).eval()


def call(command: list[Any], folder: Path) -> None:
    """Run a converter. Raises ``Failed`` with the last line that it printed."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise Failed(f"{Path(command[0]).name}: {first.strip()}")


def load(runtime: str, folder: Path, threads: int, request: dict[str, str]) -> tuple[Runner, float]:
    """The runner of a file, and the difference of its output. What was converted is reused for the same content."""
    path, image = Path(request["load"]), np.load(request["image"])
    own = folder / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    runner = RUNTIMES[runtime][1](path, own, threads, image)
    expected = np.load(request["expected"]).ravel()
    for _ in range(WARM_UP):
        actual = np.asarray(runner()).ravel()
    return runner, float(np.abs(actual - expected).max() / np.abs(expected).max())


def milliseconds(runner: Runner, clock: Callable[[], float]) -> float:
    started = clock()
    runner()
    return 1000 * (clock() - started)


def answer(runtime: str, folder: Path, threads: int, runners: dict[str, Runner], request: dict[str, Any]) -> Any:
    if "time" in request:
        clock = CLOCKS[request["clock"]]
        return {"ms": [milliseconds(runners[name], clock) for name in request["time"]]}
    try:
        runners[request["load"]], difference = load(runtime, folder, threads, request)
    except Exception as error:  # each runtime raises classes of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": why(lines) or type(error).__name__}
    return {"difference": difference, "version": metadata.version(RUNTIMES[runtime][0])}


def why(lines: list[str]) -> str:
    """The most telling line of an error message."""
    telling = ("No conversion rule", "While validating", "not allowed", "cannot", "unsupported", "Unsupported")
    return next((line for line in lines if any(word in line for word in telling)), (lines or [""])[0])[:200]


def serve(runtime: str, folder: Path, threads: int, requests: TextIO, answers: TextIO) -> None:
    runners: dict[str, Runner] = {}
    for line in requests:
        print(json.dumps(answer(runtime, folder, threads, runners, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python benchmarks/runtime_worker.py", description=__doc__.splitlines()[0])
    parser.add_argument("runtime", metavar="RUNTIME")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("threads", type=int, metavar="THREADS")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # converters print, so what they print goes to the log
    os.dup2(2, 1)
    serve(options.runtime, options.folder, options.threads, sys.stdin, answers)
