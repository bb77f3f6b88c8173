"""Which version of this project is running."""

import subprocess

DESCRIBE = ("git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")


def commit() -> str | None:
    """The commit of the clone that this process runs in, with a + where tracked files differ; None outside of git."""
    try:
        return subprocess.run(DESCRIBE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
