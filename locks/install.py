"""Install a lock file, and this checkout, into the environment of the Python that runs this.

    .venv/bin/python locks/install.py run

uv installs in a tenth of pip's time. If uv is not on the PATH, pip installs the locked one first.
If that or uv fails, pip installs everything and shows the error. Standard library only.
"""

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).parent
PIP = (sys.executable, "-m", "pip")
# uv does not read pip's configuration: these options mean the same to both.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}


def main(lock: str) -> int:
    """Install locks/`lock`.txt; return the exit status."""
    # Ctrl-C ends this process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    file = str(LOCKS / f"{lock}.txt")
    uv = find_uv()
    if uv and install_by_uv(uv, file):
        return 0
    quiet = ("--quiet", "--disable-pip-version-check")
    for arguments in (
        ("--require-hashes", "--only-binary", ":all:", "--requirement", file),
        ("--no-deps", "--editable", "."),
    ):
        status = subprocess.call([*PIP, "install", *quiet, *arguments])
        if status:
            return status
    return 0


def find_uv() -> str | None:
    """Return the path of uv, which pip installs if it is not on the PATH; None without one."""
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    requirements = str(LOCKS / "uv.txt")
    say("Getting uv, which installs the packages")
    done = subprocess.run(
        [
            *(*PIP, "install", "--quiet", "--require-hashes", "--only-binary", ":all:"),
            *("--requirement", requirements),
        ],
        capture_output=True,
        check=False,
    )
    installed = Path(sys.executable).with_name("uv")
    return str(installed) if done.returncode == 0 and installed.exists() else None


def install_by_uv(uv: str, file: str) -> bool:
    """Install by uv, and show its progress; return whether it succeeded."""
    environment = uv_environment()
    target = (uv, "pip", "install", "--python", sys.executable)
    locked = [*target, "--only-binary", ":all:", "--require-hashes", "--requirement", file]
    with subprocess.Popen(
        locked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            # The other lines name each installed package again, or are errors, which pip shows.
            if line.split()[:1] in (["Downloading"], ["Prepared"], ["Installed"]):
                say(line.strip())
    if process.returncode:
        return False
    own = [*target, "--quiet", "--no-deps", "--editable", "."]
    done = subprocess.run(own, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def say(text: str) -> None:
    """Print a line of progress at once."""
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


def uv_environment() -> dict[str, str]:
    """Return the environment of uv, with pip's configuration."""
    shown = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    options = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    passed = {
        # Certificates of the system too, as pip; and the best version of all indexes.
        "UV_SYSTEM_CERTS": "true",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    for section in ("global", "install", ":env:"):
        for option, name in UV_NAMES.items():
            value = options.get(f"{section}.{option}")
            if value:
                passed[name] = " ".join(str(ast.literal_eval(value)).split())
    # uv separates these by commas, pip by spaces.
    if "UV_FIND_LINKS" in passed:
        passed["UV_FIND_LINKS"] = passed["UV_FIND_LINKS"].replace(" ", ",")
    return {**passed, **os.environ}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
