"""What lets the tests' broker be reached over TLS, and by those alone who know a password.

The certificate signs itself. Java's keytool makes it, once; it lies where the broker's address is.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

USER, PASSWORD = "flowsnap", "canary-of-the-user"
PLAIN, SCRAM = "PLAIN", "SCRAM-SHA-512"
LISTENERS = "listeners.json"
"""The file that says how the broker is configured for it."""

_STORE_PASSWORD = "canary-of-the-store"
_LOGIN = "org.apache.kafka.common.security"
_ROUNDS = 4096


class Secured(NamedTuple):
    """Where the broker listens for TLS, and for TLS with a password; the certificate to trust."""

    tls: str
    sasl: str
    certificate: str

    def tls_settings(self) -> dict[str, Any]:
        """Return what a client is told."""
        return {"security.protocol": "SSL", "ssl.ca.location": self.certificate}

    def sasl_settings(self, mechanism: str, password: str = PASSWORD) -> dict[str, Any]:
        """Return what a client is told that has to say who it is."""
        return {
            **self.tls_settings(),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            "sasl.username": USER,
            "sasl.password": password,
        }


@cache
def secured() -> Secured:
    """Return how the broker of this machine is reached; the test is skipped where there is none."""
    from confluent_kafka.admin import (
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    from tests.servers.kafka.broker import broker, home

    kafka = broker()
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ROUNDS)
    made = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
    for future in kafka.admin().alter_user_scram_credentials([made]).values():
        future.result(30)
    return Secured(*json.loads((home() / LISTENERS).read_text())["secured"])


def prepare(directory: Path, addresses: Sequence[str]) -> None:
    """Have a broker that is started in ``directory`` listen at two more addresses."""
    tls, sasl = addresses
    keys, certificate = _keystore(directory)
    settings = {
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL"
        ),
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(keys),
        "ssl.keystore.password": _STORE_PASSWORD,
        "sasl.enabled.mechanisms": f"{PLAIN},{SCRAM}",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        ),
        f"listener.name.sasl_ssl.{SCRAM.lower()}.sasl.jaas.config": (
            f"{_LOGIN}.scram.ScramLoginModule required;"
        ),
    }
    listeners = [f"SSL://{tls}", f"SASL_SSL://{sasl}"]
    known = {
        "listeners": listeners,
        "settings": settings,
        "secured": Secured(tls, sasl, str(certificate)),
    }
    (directory / LISTENERS).write_text(json.dumps(known))


def _keystore(directory: Path) -> tuple[Path, Path]:
    """Return the files of a key and its certificate for this machine, made where missing."""
    keys, certificate = directory / "broker.p12", directory / "broker.pem"
    if not certificate.exists():
        keys.unlink(missing_ok=True)
        where = ["-alias", "broker", "-keystore", str(keys), "-storepass", _STORE_PASSWORD]
        names = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost"]
        _keytool("-genkeypair", *where, *names, "-keyalg", "EC", "-validity", "3650",
                 "-storetype", "PKCS12")  # fmt: skip
        certificate.write_text(_keytool("-exportcert", "-rfc", *where))
    return keys, certificate


def _keytool(*arguments: str) -> str:
    done = subprocess.run(["keytool", *arguments], check=True, capture_output=True, text=True)
    return done.stdout
