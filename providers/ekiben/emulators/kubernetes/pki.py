"""The cluster's keys: an authority of its own, a certificate for each of its parts, and kubeconfigs.

Elliptic keys, made in milliseconds. They are kept in the cluster's state folder, readable for its owner only.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "kubeconfig"]

VALID = datetime.timedelta(days=3650)
# A clock that is a little behind must not find a certificate that is not valid yet.
EARLIER = datetime.timedelta(days=1)


class Authority:
    """The authority whose key lies in `folder`; made there when it is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate, key = folder / "ca.crt", folder / "ca.key"
        if not (certificate.exists() and key.exists()):
            made = ec.generate_private_key(ec.SECP256R1())
            name = _name("ekiben-cluster", ())
            built = _builder(name, name, made).add_extension(
                x509.BasicConstraints(ca=True, path_length=None), critical=True
            )
            built = built.add_extension(_usage(signs=True), critical=True)
            built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(made.public_key()), critical=False)
            _write(key, _pem(made))
            _write(certificate, built.sign(made, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self._key = loaded
        self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        return self.folder / "ca.key"

    def issue(self, file: str, user: str, *, groups: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
        """`file`.crt and `file`.key for Kubernetes' `user` of `groups`, as a server for `names`; silent where they are there."""
        certificate, key = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        if certificate.exists() and key.exists():
            return
        made = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        built = _builder(_name(user, groups), self._certificate.subject, made)
        built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        built = built.add_extension(_usage(signs=False), critical=True)
        built = built.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        built = built.add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in names or (file,)]), False
        )
        built = built.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        _write(key, _pem(made))
        _write(certificate, built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def key_pair(self, file: str) -> None:
        """`file`.key and `file`.pub, which sign and prove the tokens of service accounts."""
        if (self.folder / f"{file}.pub").exists():
            return
        made = ec.generate_private_key(ec.SECP256R1())
        _write(self.folder / f"{file}.key", _pem(made))
        public = made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(self.folder / f"{file}.pub", public)

    def kubeconfig(self, file: str, server: str, into: Path) -> None:
        """A kubeconfig at `into` that holds `file`'s certificate and key, and needs no other file."""
        data = {end: base64.b64encode((self.folder / f"{file}.{end}").read_bytes()).decode() for end in ("crt", "key")}
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        _write(into, kubeconfig(server, authority, data["crt"], data["key"]).encode())


def kubeconfig(server: str, authority: str, certificate: str, key: str) -> str:
    """The text of a kubeconfig (JSON, which is YAML), of base64 texts."""
    name = "ekiben"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": {"client-certificate-data": certificate, "client-key-data": key}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "current-context": name,
        },
        indent=1,
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
    )


def _name(user: str, groups: tuple[str, ...]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(content)
    fresh.replace(path)
