"""From an API key to a tenant. Keys are kept as SHA-256 only; a tenant is never taken from a header."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest

from gateway.config.schema import TenantConfig
from gateway.errors import Unauthenticated
from gateway.tenants.directory import TenantDirectory


class Keyring:
    """Looks a key up by its digest: the time this takes depends on the digest, which nobody can steer towards
    another key's, and the digests are then compared in constant time."""

    def __init__(self, directory: TenantDirectory) -> None:
        self._directory = directory

    def tenant(self, key: str | None) -> TenantConfig:
        """The tenant that `key` belongs to. Raises Unauthenticated."""
        if not key:
            raise Unauthenticated(
                "missing_api_key", "No API key: send it as 'Authorization: Bearer KEY' or in the x-api-key header."
            )
        digest = sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        tenant = self._directory.by_digest(digest)
        if tenant is None or not any(compare_digest(digest, known) for known in tenant.keys_sha256):
            raise Unauthenticated("invalid_api_key", "The API key is not known here.")
        return tenant
