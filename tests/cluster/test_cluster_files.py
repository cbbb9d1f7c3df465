"""The files for containers and schedulers agree with each other, with the project, and with their formats.

No container engine is needed. `make cluster-lint` checks them by hadolint, `docker compose config` and the like.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cluster.dependencies import dependencies
from tasks import telemetry

FOLDER = "cluster"
IMAGE = "condensenet:latest"  # with its tag, so that one command can replace it by that of a registry


@pytest.fixture(scope="module")
def folder(checkout: Path) -> Path:
    return checkout / FOLDER


@pytest.fixture(scope="module")
def services(folder: Path) -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    return services


@pytest.fixture(scope="module")
def manifests(folder: Path) -> list[dict[str, Any]]:
    files = sorted(set((folder / "kubernetes").glob("*.yaml")) - {folder / "kubernetes" / "secret.yaml"})
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


@pytest.fixture(scope="module")
def pins(checkout: Path) -> dict[str, str]:
    lines = (checkout / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return project


def pods(manifests: list[dict[str, Any]], job: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod specification in the manifests and in Prefect's job template."""
    found = [job["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        cluster = spec.get("rayClusterSpec", spec)
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]] if "headGroupSpec" in cluster else []
        found += [each["template"]["spec"] for each in [*groups, spec] if "template" in each]
    return found


@pytest.fixture(scope="module")
def job_template(folder: Path) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((folder / "kubernetes" / "prefect-job-template.json").read_text())
    return template


def test_every_variable_of_compose_is_in_the_example_and_none_is_left_over(folder: Path) -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (folder / "compose.yaml").read_text()))
    example = re.findall(r"^(\w+)=", (folder / ".env.example").read_text(), re.MULTILINE)
    assert sorted(used) == sorted(example)


def test_a_missing_password_is_an_error_not_a_default(folder: Path) -> None:
    references = re.findall(r"(?<!\$)\$\{\w+([^}]*)\}", (folder / "compose.yaml").read_text())
    assert set(references) == {":?"}
    example = (folder / ".env.example").read_text()
    secrets = dict(re.findall(r"^(\w*(?:PASSWORD|SECRET\w*|TOKEN))=(.*)$", example, re.MULTILINE))
    assert len(secrets) == 6
    assert set(secrets.values()) == {"<secret>"}


def test_every_service_that_stays_has_a_health_check_and_who_needs_it_waits(services: dict[str, Any]) -> None:
    once = {name for name, service in services.items() if service.get("restart") == "no"}
    assert once == {"bucket", "deployments"}
    for name, service in services.items():
        assert ("healthcheck" in service) == (name not in once), name
        for other, wait in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in once else "service_healthy"
            assert wait["condition"] == expected, (name, other)


def test_compose_publishes_ports_on_the_loopback_alone(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"mlflow", "prefect"}
    for name, ports in published.items():
        (port,) = ports
        inside = port.rpartition(":")[2]
        assert port.startswith("127.0.0.1:")
        assert inside in services[name]["command"]
        assert f":{inside}/" in services[name]["healthcheck"]["test"][-1]


def test_addresses_in_compose_name_services_and_the_ports_they_listen_on(
    folder: Path, services: dict[str, Any]
) -> None:
    text = (folder / "compose.yaml").read_text()
    listening = {"prefect": "4200", "mlflow": "5000", "s3": "7070"}
    addresses = set(re.findall(r"http://([a-z0-9-]+):(\d+)", text))
    assert {each for each in addresses if each[0] != "127"} == set(listening.items())
    assert set(re.findall(r"ray-head:(\d+)", text)) == {"6379"}
    assert set(re.findall(r"@(\w+)/", text)) == {"postgres"}


def test_one_image_is_in_use_and_the_others_have_versions(services: dict[str, Any]) -> None:
    images = {service["image"] for service in services.values()}
    assert "${CONDENSENET_IMAGE:?}" in images
    for image in images - {"${CONDENSENET_IMAGE:?}"}:
        assert re.fullmatch(r"[\w/-]+:v?\d[\w.-]*", image), image


def test_databases_of_addresses_are_made(folder: Path) -> None:
    made = set(re.findall(r"CREATE DATABASE (\w+);", (folder / "databases.sql").read_text()))
    used = set(re.findall(r"@postgres/(\w+)", (folder / "compose.yaml").read_text()))
    assert made == used == {"prefect", "mlflow", "mlflow_auth"}


def test_commands_of_compose_exist(checkout: Path, services: dict[str, Any], pins: dict[str, str]) -> None:
    for name, service in services.items():
        command = service.get("command", [])
        modules = [command[2]] if command[:2] == ["python", "-m"] else []
        modules += (
            [service["healthcheck"]["test"][3]] if "cluster.healthcheck" in str(service.get("healthcheck")) else []
        )
        for module in modules:
            assert (checkout / f"{module.replace('.', '/')}.py").is_file(), (name, module)
        if command and command[0] in ("prefect", "ray"):
            assert command[0] in pins


def test_the_image_is_installed_from_the_constraints_alone(folder: Path) -> None:
    text = (folder / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&;\n]*)", text)
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in each for each in installs)
    assert all("--no-deps" in each for each in installs if "--index-url" in each)  # that index has not all of them
    build, final = text.split("\nFROM ")[1:]
    assert "gcc" in build.split("COPY")[0]
    assert not re.search(r"\bgcc\b|\bmake\b|libc6-dev|pip install", final)


def test_the_image_runs_as_nobody_special_and_checks_itself(folder: Path) -> None:
    instructions = (folder / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^USER 1000:1000$", instructions, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", instructions, re.MULTILINE)
    assert "ENTRYPOINT" in instructions


def test_the_image_gets_no_more_than_it_copies(checkout: Path, project: dict[str, Any]) -> None:
    lines = (checkout / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines[[line for line in lines if not line.startswith("#")].index("*") + 1] == "*"
    assert all((checkout / name).exists() for name in kept)
    packages = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= set(kept)
    assert {"constraints.txt", "pyproject.toml", "setup.py", project["readme"], "LICENSE"} <= set(kept)


def test_the_dependencies_of_the_image_are_pinned(project: dict[str, Any], pins: dict[str, str]) -> None:
    asked = list(dependencies(project, ["pipeline", "cluster", "kubernetes"]))
    assert not any(line.startswith("condensenet") for line in asked)
    assert {"boto3", "onnxruntime", "prefect-kubernetes", "torch"} <= {Requirement(line).name for line in asked}
    for line in asked:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line


def test_what_was_tested_is_the_upper_bound(project: dict[str, Any], pins: dict[str, str]) -> None:
    asked = [Requirement(line) for line in dependencies(project, ["pipeline", "cluster", "kubernetes", "dev"])]
    for name in ("torch", "torchvision", "onnxruntime", "ray", "prefect", "mlflow", "dvc"):
        major, minor = Version(pins[name]).release[:2]
        bounds = [each.specifier for each in asked if each.name == name]
        assert any(not bound.contains(f"{major}.{minor + 1}.0") for bound in bounds), name


def test_constraints_are_made_of_every_extra_but_that_of_the_site(checkout: Path, project: dict[str, Any]) -> None:
    (compile_line,) = re.findall(r"uv pip compile .*", (checkout / "Makefile").read_text())
    compiled = set(dependencies(project, re.findall(r"--extra (\w+)", compile_line)))
    extras = project["optional-dependencies"].keys() - {"docs"}
    assert compiled == set(dependencies(project, sorted(extras)))


def test_constraints_are_names_and_versions(checkout: Path) -> None:
    lines = (checkout / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])


def test_no_host_of_packages_is_written_anywhere(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"(?:pypi|pythonhosted|download\.pytorch|ghcr|quay)\.", path.read_text()), path


def test_pods_run_our_image_with_few_rights(manifests: list[dict[str, Any]], job_template: dict[str, Any]) -> None:
    all_pods = pods(manifests, job_template)
    assert len(all_pods) == 8
    for pod in all_pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["image"] in (IMAGE, "{{ image }}")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"]


def test_the_image_can_be_renamed_by_the_command_of_the_page(checkout: Path, folder: Path, tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^sed .*cluster/kubernetes.*$", (checkout / "docs" / "OPERATORS.md").read_text(), re.MULTILINE
    )
    shutil.copytree(folder, tmp_path / FOLDER)
    before = "".join(path.read_text() for path in sorted((tmp_path / FOLDER / "kubernetes").iterdir()))
    subprocess.run(["bash", "-c", command.replace("<registry>", "r.example")], cwd=tmp_path, check=True)
    after = "".join(path.read_text() for path in sorted((tmp_path / FOLDER / "kubernetes").iterdir()))
    assert before.count(IMAGE) == 8
    assert after == before.replace(IMAGE, "r.example/condensenet")


def test_the_ray_job_asks_for_a_gpu_if_its_study_does(checkout: Path, manifests: list[dict[str, Any]]) -> None:
    (job,) = (each["spec"] for each in manifests if each["kind"] == "RayJob")
    study = re.findall(r"--study ([\w-]+)", job["entrypoint"])[0]
    uses_gpu = yaml.safe_load((checkout / "conf" / "study" / f"{study}.yaml").read_text()).get("ray", {}).get("use_gpu")
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == bool(uses_gpu)


def test_secrets_volumes_and_services_that_are_named_exist(
    manifests: list[dict[str, Any]], job_template: dict[str, Any], folder: Path
) -> None:
    names = {(each["kind"], each["metadata"].get("name")) for each in manifests}
    for pod in pods(manifests, job_template):
        (container,) = pod["containers"]
        for source in container.get("envFrom", []):
            assert ("Secret", source["secretRef"]["name"]) in names
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "workspace")
            claim = claim.replace("{{ workspace_claim }}", "workspace")
            assert ("PersistentVolumeClaim", claim) in names
            assert ("Secret", volume.get("secret", {}).get("secretName", "condensenet")) in names
    hosts = set(re.findall(r"http://([a-z]+):\d+", (folder / "kubernetes" / "secret.example.yaml").read_text()))
    assert {("Service", host) for host in hosts} <= names
    defaults = job_template["variables"]["properties"]["env"]["default"]
    assert ("RayCluster", defaults["RAY_ADDRESS"].removesuffix("-head-svc:6379")) in names


def test_ray_clusters_have_the_pinned_version_and_ask_for_a_token(
    manifests: list[dict[str, Any]], pins: dict[str, str]
) -> None:
    specs = [each["spec"].get("rayClusterSpec", each["spec"]) for each in manifests if each["kind"].startswith("Ray")]
    assert len(specs) == 2
    for spec in specs:
        assert spec["rayVersion"] == pins["ray"]
        assert spec["authOptions"] == {"mode": "token", "secretName": "condensenet-ray"}


def test_example_secrets_are_only_examples(manifests: list[dict[str, Any]]) -> None:
    for secret in (each for each in manifests if each["kind"] == "Secret"):
        for name, value in secret["stringData"].items():
            if re.search(r"PASSWORD|SECRET|AUTH_STRING|auth_token|DATABASE|STORE_URI|CONNECTION", name):
                assert "<" in value, name


def test_the_servers_of_kubernetes_get_all_that_mlflow_asks_for(manifests: list[dict[str, Any]]) -> None:
    from cluster.mlflow_server import REQUIRED, check

    secrets = [each for each in manifests if each["kind"] == "Secret" and each["metadata"]["name"] == "condensenet"]
    secret = secrets[0]["stringData"]
    assert set(REQUIRED) <= set(secret)
    check({**secret, "MLFLOW_AUTH_ADMIN_PASSWORD": "x" * 12})


def test_prefects_job_template_declares_what_it_uses(job_template: dict[str, Any]) -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(job_template["job_configuration"])))
    assert used == set(job_template["variables"]["properties"])


@pytest.mark.parametrize("name", ["Makefile", "cluster/Dockerfile", "cluster/slurm/train.sbatch", "docs/OPERATORS.md"])
def test_all_telemetry_is_off_that_the_flows_turn_off(checkout: Path, name: str) -> None:
    text = (checkout / name).read_text()
    set_there = re.findall(r"\b(\w*(?:DO_NOT_TRACK|ANALYTICS|TELEMETRY|USAGE_STATS)\w*)(?: :)?=\s*([^\s`]+)", text)
    assert set(set_there) == set(telemetry.OFF.items())


def test_the_commands_of_the_page_start_a_head_that_reports_nothing(checkout: Path) -> None:
    blocks = re.findall(r"^```sh$.*?^```$", (checkout / "docs" / "OPERATORS.md").read_text(), re.MULTILINE | re.DOTALL)
    heads = [block for block in blocks if "ray start --head" in block]
    assert heads
    for block in heads:
        before = block.partition("ray start --head")[0].split()
        assert {f"{name}={value}" for name, value in telemetry.OFF.items() if name.startswith("RAY_")} <= set(before)


@pytest.mark.parametrize("checker", [("bash", "-n"), ("shellcheck",)])
def test_the_slurm_script_is_sound(folder: Path, checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed: apt-get install {checker[0]}")
    subprocess.run([*checker, str(folder / "slurm" / "train.sbatch")], check=True)


def test_the_slurm_script_guards_ray(folder: Path) -> None:
    text = (folder / "slurm" / "train.sbatch").read_text()
    assert "umask 077" in text
    assert text.index("RAY_AUTH_MODE=token") < text.index("ray start")
    assert "python -m flows.reproduce" in text


def test_the_slurm_script_asks_for_what_its_example_needs(checkout: Path, folder: Path) -> None:
    text = (folder / "slurm" / "train.sbatch").read_text()
    example = re.search(r"--nodes=(\d+) --gpus-per-node=(\d+) .*--study (\w+)", text)
    cpus = re.search(r"^#SBATCH --cpus-per-task=(\d+)$", text, re.MULTILINE)
    assert example
    assert cpus
    ray = yaml.safe_load((checkout / "conf" / "study" / f"{example[3]}.yaml").read_text())["ray"]
    nodes = int(example[1])
    assert nodes * int(example[2]) == ray["num_workers"]
    assert nodes * int(cpus[1]) == ray["num_workers"] * ray["threads_per_worker"]
    assert f"sbatch {example[0]}" in (checkout / "docs" / "OPERATORS.md").read_text()
