"""The database servers that a home brings along, started on demand."""

from __future__ import annotations

from pipeline.services.mongo import MongoAddress, MongoServer, MongoUnavailable
from pipeline.services.postgres import PostgresAddress, PostgresServer
from pipeline.services.process import ServerStatus

__all__ = ["MongoAddress", "MongoServer", "MongoUnavailable", "PostgresAddress", "PostgresServer", "ServerStatus"]
