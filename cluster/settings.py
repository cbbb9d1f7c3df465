"""Where the services of a local cluster listen, their passwords, and what clients need to reach them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from tasks.errors import UserError
from tasks.private_files import write_private
from tasks.ray_local import RAY_HOST, parent_of

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = "CLUSTER_FOLDER"  # names another place for the state
PORTS_FILE = "ports.json"
USER, POOL, BUCKET = "condensenet", "condensenet", "mlflow"


@dataclass(frozen=True)
class Ports:
    """Each may be set by ``CLUSTER_<NAME>_PORT``."""

    postgres: int = 5433
    s3: int = 7070
    mlflow: int = 5000
    prefect: int = 4200
    worker: int = 8080
    ray: int = 6379

    @classmethod
    def from_environment(cls) -> Ports:
        """Raises ``UserError`` for what is no port, or two services with the same one."""
        values: dict[str, int] = {}
        for name in (each.name for each in fields(cls)):
            variable = f"CLUSTER_{name.upper()}_PORT"
            given = os.environ.get(variable, str(getattr(cls, name)))
            if not given.isdecimal() or not 1024 <= int(given) <= 65535:
                raise UserError(f"{variable}={given!r} is not allowed: a port from 1024 to 65535")
            if int(given) in values.values():
                raise UserError(f"{variable}={given} is not allowed: two services cannot share a port")
            values[name] = int(given)
        return cls(**values)

    def check_free(self) -> None:
        """Raises ``UserError`` for the first port where somebody listens already."""
        for name, port in asdict(self).items():
            host = RAY_HOST if name == "ray" else HOST
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise UserError(
                        f"port {port} of {host} is taken ({error.strerror}), {name} needs it: "
                        f"end what listens there, or choose another by CLUSTER_{name.upper()}_PORT"
                    ) from None


def state_folder() -> Path:
    return Path(os.environ.get(FOLDER) or CHECKOUT / "state" / "cluster").absolute()


def _secret() -> str:
    return secrets.token_hex(24)


@dataclass(frozen=True)
class Passwords:
    """Made once; the folder of the cluster holds them in a file that only its owner can read."""

    postgres: str = field(default_factory=_secret, repr=False)
    s3: str = field(default_factory=_secret, repr=False)
    mlflow: str = field(default_factory=_secret, repr=False)
    mlflow_session: str = field(default_factory=_secret, repr=False)
    prefect: str = field(default_factory=_secret, repr=False)
    ray: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @classmethod
    def of(cls, folder: Path) -> Passwords:
        """Those in ``folder``, or new ones that are kept there."""
        path = folder / "passwords.json"
        if not path.exists():
            write_private(path, json.dumps(asdict(cls()), indent=2))
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Cluster:
    """A local cluster that works for ``checkout`` and keeps its state in ``folder``."""

    checkout: Path
    folder: Path
    ports: Ports
    passwords: Passwords

    @classmethod
    def settled(cls) -> Self:
        """The cluster of this checkout, as it was last started; raises ``UserError`` if it never was."""
        folder = state_folder()
        try:
            ports = Ports(**json.loads((folder / PORTS_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"no cluster in {folder}: make cluster-up makes one") from None
        return cls(CHECKOUT, folder, ports, Passwords.of(folder))

    @property
    def ray_folder(self) -> Path:
        """Beside other temporary folders: the paths of sockets must be short."""
        name = f"cn-cluster-{os.getuid()}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}"
        return parent_of(name) / name

    @property
    def token_file(self) -> Path:
        return self.folder / "ray-token"

    @property
    def prefect_url(self) -> str:
        return f"http://{HOST}:{self.ports.prefect}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.ports.mlflow}"

    @property
    def ray_address(self) -> str:
        return f"{RAY_HOST}:{self.ports.ray}"

    def database(self, name: str, driver: str) -> str:
        return f"postgresql+{driver}://{USER}:{self.passwords.postgres}@{HOST}:{self.ports.postgres}/{name}"

    @property
    def store_variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.ports.s3}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": self.passwords.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def ray_variables(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file), "RAY_USAGE_STATS_ENABLED": "0"}

    @property
    def client_variables(self) -> dict[str, str]:
        """What a process has in its environment to use the cluster."""
        return {
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.passwords.prefect}",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.passwords.mlflow,
            "RAY_ADDRESS": self.ray_address,
            **self.ray_variables,
            **self.store_variables,
        }
