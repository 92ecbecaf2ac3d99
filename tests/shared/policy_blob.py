"""Writes a policy by the table in PROTOCOL.md; shares nothing with the product but the hash."""

import hashlib

EVERY = "*"
HOLDERS = "holders"


def rule(who, services, until=0, streams=0, idle=0, kib=0, read_only=False):
    """`who`: fingerprints, or HOLDERS among them. `services`: names, or EVERY."""
    return who, services, until, streams, idle, kib, read_only


def encode(rules, seq=1, generation=0, revoked=()):
    parties, services, body = [], [], b""
    for who, names, until, streams, idle, kib, read_only in rules:
        indexes = []
        for party in who:
            if party != HOLDERS and party not in parties:
                parties.append(party)
            indexes.append(255 if party == HOLDERS else parties.index(party))
        wanted = [] if names == EVERY else names
        for name in wanted:
            if name not in services:
                services.append(name)
        flags = (1 if read_only else 0) | (2 if names == EVERY else 0)
        numbers = until.to_bytes(4, "big") + bytes([streams]) + idle.to_bytes(2, "big") + kib.to_bytes(4, "big")
        body += bytes([flags]) + numbers
        body += bytes([len(indexes)]) + bytes(indexes) + bytes([len(wanted)]) + bytes([services.index(name) for name in wanted])
    blob = b"ZP1" + seq.to_bytes(4, "big") + generation.to_bytes(2, "big")
    blob += bytes([len(parties)]) + b"".join(parties)
    blob += bytes([len(services)]) + b"".join([bytes([len(name)]) + name.encode() for name in services])
    blob += bytes([len(revoked)]) + b"".join(revoked)
    blob += len(rules).to_bytes(2, "big") + body
    return seal(blob)


def seal(blob):
    return blob + hashlib.sha256(blob).digest()[:8]
