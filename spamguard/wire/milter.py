"""The milter protocol's bytes: packets to values and back, for both ends of the wire.

A packet is a length (four bytes, big endian), a command byte and its data; strings end with
NUL. Commands of the MTA are capitals, replies of a filter are not, option negotiation is the
same both ways: so one table reads both directions. The values are `milter_packets.py`; which
of them is allowed when is `milter_session.py`.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

from spamguard.errors import LocalProtocolError, PeerProtocolError
from spamguard.wire.milter_packets import (
    ActionFlags,
    Chunk,
    Connect,
    Field,
    IndexedField,
    Macros,
    Negotiate,
    NoData,
    Packet,
    Path,
    ReplyCode,
    StepFlags,
    Text,
)

# What the length field of one packet may say. A body chunk is 65,535 bytes and the command; a
# header field of Postfix is one packet of up to header_size_limit (102,400 by default), and the
# largest packet that Sendmail can negotiate is 1 MiB.
MAX_PACKET_BYTES = (1 << 20) + 1
MAX_CHUNK_BYTES = 65_535  # of a body, by every MTA

_LENGTH = struct.Struct(">I")
_OPTIONS = struct.Struct(">III")
_REPLY_CODE = re.compile(rb"([45])[0-9][0-9] ([45])\.[0-9]{1,3}\.[0-9]{1,3}( [^\0\r\n]*)?")
_KINDS: dict[int, type[Packet]] = {kind.code[0]: kind for kind in Packet.__args__}


class Codec:
    """Cuts a stream of bytes into packets, for either end; knows no order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came, in pieces of any size."""
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        self._buffer += data

    def next_event(self) -> Packet | None:
        """Return the next packet, or None when more bytes are needed.

        Raises:
            PeerProtocolError: it is too long, of an unknown kind or malformed; the stream
                cannot be read on.
        """
        start = self._position + _LENGTH.size
        if len(self._buffer) < start:
            return None
        length = _LENGTH.unpack_from(self._buffer, self._position)[0]
        if not 1 <= length <= MAX_PACKET_BYTES:
            raise PeerProtocolError(f"a packet of {length} bytes")
        end = start + length
        if len(self._buffer) < end:
            return None
        kind = _KINDS.get(self._buffer[start])
        if kind is None:
            raise PeerProtocolError(f"unknown command 0x{self._buffer[start]:02x}")
        with memoryview(self._buffer) as view:
            data = bytes(view[start + 1 : end])
        self._position = end
        return decode_data(kind, data)


def encode(packet: Packet) -> bytes:
    """Return a packet as it goes over the wire.

    Raises:
        LocalProtocolError: it has a value that the protocol cannot carry.
    """
    data = encode_data(packet)
    if len(data) >= MAX_PACKET_BYTES:
        raise LocalProtocolError(f"{type(packet).__name__} of {len(data)} bytes is too long")
    return _LENGTH.pack(len(data) + 1) + packet.code + data


def encode_data(packet: Packet) -> bytes:
    """Return what follows the command byte.

    Raises:
        LocalProtocolError: it has a value that the protocol cannot carry.
    """
    match packet:
        case Chunk():
            return packet.chunk
        case Field():
            return _strings(packet.name, packet.value)
        case IndexedField():
            return _LENGTH.pack(packet.index) + _strings(packet.name, packet.value)
        case Path():
            return _strings(packet.path, *packet.parameters)
        case Text():
            return _strings(packet.text)
        case Macros():
            return packet.stage + b"".join(_strings(*pair) for pair in packet.values)
        case Connect(family=b"U"):
            return _strings(packet.hostname) + b"U"
        case Connect():
            place = struct.pack(">H", packet.port) + _strings(packet.address)
            return _strings(packet.hostname) + packet.family + place
        case Negotiate():
            options = _OPTIONS.pack(packet.version, packet.actions, packet.steps)
            lists = (_LENGTH.pack(stage) + _strings(names) for stage, names in packet.macros)
            return options + b"".join(lists)
        case ReplyCode():
            matched = _REPLY_CODE.fullmatch(packet.text)
            if matched is None or matched[1] != matched[2]:
                raise LocalProtocolError(f"ReplyCode: expected NNN X.Y.Z text: {packet.text!r}")
            return _strings(packet.text.replace(b"%", b"%%"))
        case _:
            return b""


def decode_data(kind: type[Packet], data: bytes) -> Packet:
    """Return the packet of that kind with that data.

    Raises:
        PeerProtocolError: the data is malformed.
    """
    return _DECODERS[kind](kind, data)


def _chunk(kind: type[Any], data: bytes) -> Packet:
    packet: Packet = kind(chunk=data)
    return packet


def _field(kind: type[Any], data: bytes) -> Packet:
    # A NUL inside the value is the sender's and no end: the message passes with it.
    name, _, value = _one_string(data).partition(b"\0")
    packet: Packet = kind(name=name, value=value)
    return packet


def _indexed_field(kind: type[Any], data: bytes) -> Packet:
    name, value = _exactly_two(_split(data[4:]))
    packet: Packet = kind(index=_LENGTH.unpack(data[:4])[0], name=name, value=value)
    return packet


def _path(kind: type[Any], data: bytes) -> Packet:
    path, *parameters = _split(data)
    packet: Packet = kind(path=path, parameters=tuple(parameters))
    return packet


def _text(kind: type[Any], data: bytes) -> Packet:
    packet: Packet = kind(text=_one_string(data))
    return packet


def _reply_code(kind: type[Any], data: bytes) -> Packet:
    del kind
    return ReplyCode(text=_one_string(data).replace(b"%%", b"%"))


def _no_data(kind: type[Any], data: bytes) -> Packet:
    if data:
        raise PeerProtocolError(f"{kind.__name__}: expected no data, got {len(data)} bytes")
    packet: Packet = kind()
    return packet


def _macros(kind: type[Any], data: bytes) -> Packet:
    del kind
    if not data:
        raise PeerProtocolError("Macros: expected a stage")
    parts = _split(data[1:]) if len(data) > 1 else []
    if len(parts) % 2:
        raise PeerProtocolError("Macros: a name without a value")
    return Macros(stage=data[:1], values=tuple(zip(parts[::2], parts[1::2], strict=True)))


def _connect(kind: type[Any], data: bytes) -> Packet:
    del kind
    hostname, _, place = data.partition(b"\0")
    family = place[:1]
    if family == b"U":
        return Connect(hostname=hostname)
    if family not in (b"4", b"6", b"L") or len(place) < 4:
        raise PeerProtocolError(f"Connect: expected family, port and address: {place[:20]!r}")
    return Connect(
        hostname=hostname,
        family=family,
        port=int.from_bytes(place[1:3], "big"),
        address=_one_string(place[3:]),
    )


def _negotiate(kind: type[Any], data: bytes) -> Packet:
    del kind
    if len(data) < _OPTIONS.size:
        raise PeerProtocolError(f"Negotiate: expected 12 bytes or more, got {len(data)}")
    version, actions, steps = _OPTIONS.unpack_from(data)
    macros = []
    position = _OPTIONS.size
    while position < len(data):
        names = position + _LENGTH.size
        end = data.find(b"\0", names)
        if end < 0:
            raise PeerProtocolError("Negotiate: a macro list without its end")
        macros.append((_LENGTH.unpack_from(data, position)[0], data[names:end]))
        position = end + 1
    return Negotiate(
        version=version,
        actions=ActionFlags(actions),
        steps=StepFlags(steps),
        macros=tuple(macros),
    )


def _strings(*values: bytes) -> bytes:
    for value in values:
        if b"\0" in value:
            raise LocalProtocolError(f"NUL in a string: {value[:60]!r}")
    return b"\0".join(values) + b"\0"


def _one_string(data: bytes) -> bytes:
    if data[-1:] != b"\0":
        raise PeerProtocolError(f"a string without its end: {data[-20:]!r}")
    return data[:-1]


def _split(data: bytes) -> list[bytes]:
    return _one_string(data).split(b"\0")


def _exactly_two(parts: list[bytes]) -> list[bytes]:
    if len(parts) != 2:
        raise PeerProtocolError(f"expected two strings, got {len(parts)}")
    return parts


_SHAPES: tuple[tuple[type[Any], Callable[[type[Any], bytes], Packet]], ...] = (
    (Chunk, _chunk),
    (Field, _field),
    (IndexedField, _indexed_field),
    (Path, _path),
    (Text, _text),
    (Macros, _macros),
    (Connect, _connect),
    (Negotiate, _negotiate),
    (ReplyCode, _reply_code),
    (NoData, _no_data),
)
_DECODERS = {
    kind: next(decode for shape, decode in _SHAPES if issubclass(kind, shape))
    for kind in Packet.__args__
}
