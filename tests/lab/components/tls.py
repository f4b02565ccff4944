"""A certificate authority for one lab, and the certificates it signs.

rustls wants a CA and a leaf: one self-signed certificate for both is refused. Keys are elliptic, because
making an RSA key takes longer than starting the servers that use it.
"""
import datetime, ipaddress
import regions_net
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ["localhost", "kubernetes", "api.omnimesh.com"]
ADDRESSES = ["127.0.0.1", "127.0.1.1", "127.0.2.1", *regions_net.ADDRESSES]


class Authority:
    """Writes ca.crt into `folder`, and certificate/key pairs beside it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("failoverd lab CA")
        self.certificate = self._sign(self._name, self._key.public_key(), is_ca=True)
        self.file = folder / "ca.crt"
        self.file.write_bytes(_pem(self.certificate))

    def issue(self, name, *, expired=False):
        """A server certificate for loopback. Returns (certificate file, key file)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(name), key.public_key(), is_ca=False, expired=expired)
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert_file.write_bytes(_pem(certificate) + _pem(self.certificate))
        key_file.touch(mode=0o600)
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                               serialization.NoEncryption()))
        return cert_file, key_file

    def _sign(self, subject, public_key, *, is_ca, expired=False):
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(public_key)
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now - 2 * day).not_valid_after(now - day if expired else now + 30 * day)
                   .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False))
        if not is_ca:
            names = [x509.DNSName(n) for n in NAMES] + [x509.IPAddress(ipaddress.ip_address(a)) for a in ADDRESSES]
            builder = (builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
                       .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False))
        return builder.sign(self._key, hashes.SHA256())


def signing_key(path):
    """A private key in a file: the API server signs service account tokens with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
                                       serialization.NoEncryption()))
    return path


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
