"""A real replica set of three `mongod` with TLS, a key file between them and a user, in a temporary folder."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import pymongo

from pipeline.services.mongo import find_programs

USER, DATABASE = "researcher", "trainloom"
ELECTION = 2_000  # ms without the primary after which another one is elected

EXTENSIONS = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"


class ReplicaSet:
    """Three members on loopback ports; a context manager that ends them with the folder.

    Attributes
    ----------
    url : str
        With user, password, TLS and certificate authority; writes wait for the majority by the store's own default.
    password : str
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tl-rs-", dir="/tmp"))
        self._ports = _free_ports(3)
        self._members: dict[int, subprocess.Popen[bytes]] = {}
        self.password = secrets.token_urlsafe(16)
        self.authority = self._folder / "ca.pem"

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        options = f"replicaSet=rs&tls=true&tlsCAFile={self.authority}"
        return f"mongodb://{USER}:{self.password}@{hosts}/?authSource={DATABASE}&{options}"

    def __enter__(self) -> ReplicaSet:
        try:
            self._make_certificates()
            (self._folder / "key").write_text(secrets.token_hex(128))
            (self._folder / "key").chmod(0o600)
            for port in self._ports:
                self._start(port)
            self._initiate()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members.values():
            member.kill()
            member.wait()
        shutil.rmtree(self._folder)

    def kill_primary(self) -> None:
        """End the primary as a power failure would."""
        with pymongo.MongoClient(self.url) as client:
            client.admin.command("ping")
            assert client.primary is not None
            port = client.primary[1]
        self._members[port].kill()
        self._members[port].wait()

    def revive(self) -> None:
        """Start members that were killed, and return when all are primary or secondary again."""
        for port, member in list(self._members.items()):
            if member.poll() is not None:
                self._start(port)
        with pymongo.MongoClient(self.url, serverSelectionTimeoutMS=60_000, heartbeatFrequencyMS=500) as client:
            while len(client.nodes) < len(self._ports) or client.primary is None:
                client.admin.command("ping")

    def _make_certificates(self) -> None:
        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)

        (self._folder / "extensions").write_text(EXTENSIONS)
        new = ("req", "-newkey", "rsa:2048", "-nodes")
        openssl(*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
        openssl(*new, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "2")
        openssl("x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
        both = [(self._folder / name).read_text() for name in ("server.key", "server.crt")]
        (self._folder / "server.pem").write_text("".join(both))

    def _start(self, port: int) -> None:
        data = self._folder / str(port)
        data.mkdir(exist_ok=True)
        program = find_programs()[0]
        command = [
            *(program, "--dbpath", data, "--port", port, "--bind_ip", "127.0.0.1", "--replSet", "rs"),
            *("--keyFile", self._folder / "key", "--nounixsocket", "--logpath", self._folder / f"{port}.log"),
            *("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", self._folder / "server.pem"),
            *("--tlsCAFile", self.authority, "--tlsAllowConnectionsWithoutCertificates"),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        self._members[port] = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)

    def _initiate(self) -> None:
        """Form the set and make the user, as the server allows from its own host while there is none."""
        first = self._ports[0]
        options: dict[str, Any] = {"tls": True, "tlsCAFile": str(self.authority), "serverSelectionTimeoutMS": 120_000}
        members = [{"_id": number, "host": f"127.0.0.1:{port}"} for number, port in enumerate(self._ports)]
        # The first one alone may become the primary until the user is made.
        for member in members[1:]:
            member["priority"] = 0.5
        for port in self._ports:  # the first one asks the others at once, and takes no answer for a refusal
            with pymongo.MongoClient("127.0.0.1", port, directConnection=True, **options) as client:
                client.admin.command("ping")
        with pymongo.MongoClient("127.0.0.1", first, directConnection=True, **options) as client:
            config = {"_id": "rs", "members": members, "settings": {"electionTimeoutMillis": ELECTION}}
            client.admin.command("replSetInitiate", config)
        members_of_set = [f"127.0.0.1:{port}" for port in self._ports]
        with pymongo.MongoClient(members_of_set, replicaSet="rs", **options) as client:
            # The first user may only be given a role of this database, such as the one to make others.
            client.admin.command("createUser", "admin", pwd=self.password, roles=["root"])
        login: dict[str, Any] = {"username": "admin", "password": self.password, **options}
        with pymongo.MongoClient(members_of_set, replicaSet="rs", **login) as client:
            client[DATABASE].command("createUser", USER, pwd=self.password, roles=["readWrite"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
