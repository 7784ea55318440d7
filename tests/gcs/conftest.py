"""The fake Cloud Storage and a client for it, in every test of this directory."""

from __future__ import annotations

from tests.gcs.fixtures import client, gcs

__all__ = ["client", "gcs"]
