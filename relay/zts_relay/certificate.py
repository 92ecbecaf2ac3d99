"""The relay's TLS certificate for the MQTT port: cut at the first start, known to parties by its hash alone."""

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zts.errors import FormatError
from zts_relay.state_files import write_private

CERTIFICATE = "cert.pem"
KEY = "key.pem"
# Boards have no clock, and the pin alone decides whom they trust: the dates must only never be the reason to refuse.
_NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2100, 1, 1, tzinfo=UTC)


def make(state_dir: Path) -> tuple[ssl.SSLContext, bytes]:
    """The server's context, and the pin: the SHA-256 of the certificate's DER form, 32 bytes.

    Creates `cert.pem` and `key.pem` (self-signed, EC P-256, mode 0600) in `state_dir` unless they are there.
    Raises FormatError when they are there but of no use.
    """
    certificate, key = state_dir / CERTIFICATE, state_dir / KEY
    if not certificate.exists():
        _cut(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # all that MicroPython's mbedTLS can do
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # no client of ours resumes
    try:
        context.load_cert_chain(certificate, key)
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))).digest()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise FormatError(
            f"{certificate} and {key} are no certificate with its key ({error}); restore them, or delete both "
            "and give every party the new pin"
        ) from error
    return context, pin


def _cut(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zts relay")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    # The key first: a crash in between leaves no certificate, so the next start makes both anew.
    write_private(
        key,
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_private(certificate, signed.public_bytes(serialization.Encoding.PEM))
