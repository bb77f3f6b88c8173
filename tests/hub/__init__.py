"""A local stand-in for a model hub, and the real client against it."""

from huggingface_hub import constants

from scripts.lib.hub import patience
from tests.hub.server import Hub


def connect(server: Hub, monkeypatch) -> None:
    """Let huggingface_hub in this process take a server as its hub, as HF_ENDPOINT does when a process starts.

    Waits between attempts are short, where the hub does not ask for another time.
    """
    monkeypatch.setattr(patience, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    address = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
