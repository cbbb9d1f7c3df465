"""Which store it is, and addresses without passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import server_addresses, tracking
from tasks.errors import UserError
from tasks.tracking import address


def test_a_checkout_whose_path_would_end_early_in_an_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "was?x").mkdir()
    monkeypatch.chdir(tmp_path / "was?x")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"was\?x: no \? is allowed") as error, tracking.uploader():
        pass
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert address.uri() == "http://localhost:5000"


def test_the_default_store_is_the_checkouts_also_in_a_temporary_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ".dvc" / "tmp" / "exps" / "x"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert address.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert address.uri() == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://***@host:5000/x"),
        ("https://me:se/cr:et@host:5000/x", "https://***@host:5000/x"),
        ("https://me:12/ab@host:5000", "https://***@host:5000"),
        ("https://me:12/ab@[::1]:5000/x", "https://***@[::1]:5000/x"),
        ("https://me:123456/ab@host", "https://***@host"),
        ("https://me:a/b@c@host", "https://***@host"),
        ("https://me:a@b/c@host:5000/x", "https://***@host:5000/x"),
        ("redis://:secret@host", "redis://***@host"),
        ("redis://:pa/ss@host", "redis://***@host"),
        ("redis://:12/ss@host", "redis://***@host"),
        ("https://me:a/b@one https://me:c/d@two", "https://***@one https://***@two"),
        ("http://one:5000/x,http://me:a/b@two:5000", "http://one:5000/x,http://***@two:5000"),
        (
            "API request to http://me:se@cret@host/api failed: (Max retries at http://host/a@b)",
            "API request to http://***@host/api failed: (Max retries at http://host/a@b)",
        ),
        (
            "postgresql://host/runs?user=me&password=secret&sslmode=require",
            "postgresql://host/runs?user=me&password=***&sslmode=require",
        ),
        (
            "https://b.s3.amazonaws.com/x?X-Amz-Security-Token=F%2FwoG=&X-Amz-Expires=9&X-Amz-Signature=0aF1",
            "https://b.s3.amazonaws.com/x?X-Amz-Security-Token=***&X-Amz-Expires=9&X-Amz-Signature=***",
        ),
        ("https://a.blob.core.windows.net/c/x?sp=r&sig=ab%2Bc%3D", "https://a.blob.core.windows.net/c/x?sp=r&sig=***"),
        ("http://h/x?api-token=abc", "http://h/x?api-token=***"),
        ("http://h/x?access_key=abc&n=1", "http://h/x?access_key=***&n=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("('http://h/x?token=abc', 500)", "('http://h/x?token=***', 500)"),
        ("(http://h/x?password=a'b)c).", "(http://h/x?password=***)."),
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert server_addresses.without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "http://host:5000/a/b@2x.png",
        "http://host/a:b@c",
        "http://[::1]:5000/a@b",
        "s3://bucket/models@1/x",
        "sqlite:////home/me/a:b@c/mlflow.db",
        "databricks://profile:scope",
        "ask me@example.org about http://host:5000 (or you@example.org:25)",
        "http://host:5000 and http://host:5001/x, says me@example.org",
        "http://host:5000/x?max_results=5&order_by=token&design=1",
        "token=abc is no address",
    ],
)
def test_of_what_holds_no_password_nothing_is_hidden(text: str) -> None:
    assert server_addresses.without_secrets(text) == text
