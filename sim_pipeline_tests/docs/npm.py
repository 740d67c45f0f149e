"""Install npm packages for one test."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SECONDS = 120
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


def install(manifests: Path, directory: Path) -> Path:
    """Install exactly the packages of a lock file.

    Skips the test if npm is missing or cannot reach its registry.

    Args:
        manifests: directory with package.json and package-lock.json.
        directory: directory to install in.

    Returns:
        The directory `node_modules`.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs Node.js and npm (apt-get install nodejs npm, or brew install node)")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(manifests / name, directory)
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    # The prefix of the line differs: older versions of npm print "npm ERR!".
    if any(f"code {code}" in done.stderr for code in _UNREACHABLE):
        pytest.skip(f"npm cannot reach its registry: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return directory / "node_modules"
