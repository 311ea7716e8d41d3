"""The key that seals secrets at rest, and what it seals: AES-256-GCM (NIST SP 800-38D) under one key file.

Apart from the database, so that a copy of the database alone gives no secret away.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host.storage.beneath import Folder, read_plain
from host.storage.errors import KeyringError, unreadable
from plugin_sdk.worker.file_errors import is_shortage

KEY_BYTES: Final = 32
MAX_KEY: Final = 4096
"""Bytes that are read of a key file: enough to say how far off its length is."""
CREDENTIAL: Final = "busbar-keyring"
"""The key's name in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`)."""

# The first byte of what is sealed, so that another cipher can be told from this one later.
_VERSION: Final = b"\x01"
# Random nonces of 96 bits are safe for 2^32 seals under one key (SP 800-38D section 8.3): far above what a
# host writes in its life.
_NONCE_BYTES: Final = 12


class Keyring:
    """Seals and opens secrets. Make it with `load`; the key never leaves it."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._mac_key = hmac.digest(key, b"busbar mac", "sha256")  # one key for one purpose

    @classmethod
    def load(cls, path: Path, *, environ: Mapping[str, str] = os.environ, make: bool = True) -> Self:
        """Take the key from the credentials directory if one is there, else from `path`, made if absent.

        A new key is durable, readable by its owner alone, and complete or absent after a crash; of two
        processes that make it at once both take the same one. Blocks for a few small file operations.

        Args:
            path: The key file; its folder is made where it is absent.
            environ: Where `CREDENTIALS_DIRECTORY` is looked up.
            make: Whether a new key may be made; not where something was written under the one that is gone.

        Raises:
            KeyringError: the key has the wrong length, others may read it, or it cannot be read or made.
            OddFileError: something else than a file lies there.
            StorageFailedError: the machine has too little to read it now.
        """
        directory = environ.get("CREDENTIALS_DIRECTORY")
        try:
            if directory and (credential := Path(directory) / CREDENTIAL).exists():
                return cls(_checked(credential, read_plain(credential, MAX_KEY)))
            if make:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Folder.at(path.parent) as folder:
                if folder.status(path.name) is None:
                    if not make:
                        raise KeyringError(
                            f"the key {path} is gone, and what this host keeps cannot be read without it: put it back "
                            f"from your backup, or hand it over as the credential {CREDENTIAL}; or, to give up all "
                            "that was written under it, run 'busbar state begin-anew' and start again"
                        )
                    _create(folder, path.name)
                key = folder.read(path.name, MAX_KEY)
                _check_private(path, folder.status(path.name))
                return cls(_checked(path, key))
        except OSError as error:
            if is_shortage(error):
                raise unreadable(f"the key {path}", error) from error
            raise KeyringError(f"the key {path} cannot be read or made: {error}") from error

    def seal(self, plaintext: str, context: str) -> bytes:
        """Encrypt `plaintext`; only the same `context` opens it again, so a sealed value cannot be moved."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext.encode(), context.encode())

    def mac(self, content: bytes, context: str) -> bytes:
        """An HMAC-SHA-256 over `content` that only this key makes; another `context` makes another one."""
        return hmac.digest(self._mac_key, b"%s\0%s" % (context.encode(), content), "sha256")

    def open(self, sealed: bytes, context: str) -> str:
        """What was sealed under this key and `context`.

        Raises:
            KeyringError: it was altered, moved, or sealed with another key.
        """
        head = len(_VERSION)
        nonce, text = sealed[head : head + _NONCE_BYTES], sealed[head + _NONCE_BYTES :]
        try:
            if sealed[:head] != _VERSION or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._cipher.decrypt(nonce, text, context.encode()).decode()
        except InvalidTag as error:
            raise KeyringError(
                f"the secret of '{context}' was altered or sealed with another key: "
                "restore the key file that belongs to this database, or set the secret again"
            ) from error


def _check_private(path: Path, status: os.stat_result | None) -> None:
    if status is None:
        raise KeyringError(f"the key {path} has just been taken away: put it back from your backup")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KeyringError(f"others may read the key {path}: run `chmod 600 {path}`")
    if status.st_uid not in {os.geteuid(), 0}:
        raise KeyringError(f"the key {path} is another user's, who can read it: run `chown` on it")


def _checked(path: Path, key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise KeyringError(
            f"the key {path} has {len(key)} bytes and must have {KEY_BYTES}: restore it from your backup"
        )
    return key


def _create(folder: Folder, name: str) -> None:
    beside = f".{name}.{os.getpid()}"
    folder.remove(beside)
    descriptor = folder.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, not a rename: a rename would replace the key that another process has just made.
            os.link(folder.path / beside, folder.path / name)
        except FileExistsError:
            return
    finally:
        folder.remove(beside)
    folder.sync()
