"""This machine's package index and CA certificates, as files for the image build."""

import ast
import os
import ssl
import subprocess
import sys
from pathlib import Path

# The options that locate the package index. Options with paths are useless inside the build.
_PASSED_ON = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout"}


def pip_conf() -> str:
    """Return a pip.conf with the index options of this machine's pip: files and environment."""
    options: dict[str, str] = {}
    for line in _config():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        words = [word for word in str(ast.literal_eval(value)).split() if "file:" not in word]
        if option in _PASSED_ON and words:
            options[option.removeprefix("default-")] = " ".join(words)
    return "".join(["[global]\n", *(f"{name} = {value}\n" for name, value in options.items())])


def ca_certificates() -> str:
    """Return the CA certificates that pip trusts on this machine, as PEM."""
    named = [
        ast.literal_eval(value)
        for name, _, value in (line.partition("=") for line in _config())
        if name.endswith(".cert")
    ]
    file = (
        named[-1]
        if named
        else os.environ.get("REQUESTS_CA_BUNDLE") or ssl.get_default_verify_paths().cafile
    )
    return Path(str(file)).read_text(encoding="utf-8")


def _config() -> list[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
