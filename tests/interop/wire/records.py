"""Record batches (magic 2): build them, also broken ones, and parse what a broker returns."""

import gzip, struct, time, zlib

try:
    from crc32c import crc32c
except ImportError:  # slow, but right
    _TABLE = []
    for _i in range(256):
        _c = _i
        for _ in range(8):
            _c = (_c >> 1) ^ 0x82F63B78 if _c & 1 else _c >> 1
        _TABLE.append(_c)

    def crc32c(data, crc=0):
        crc ^= 0xFFFFFFFF
        for byte in data:
            crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF


NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODEC_NAMES = ['none', 'gzip', 'snappy', 'lz4', 'zstd']
TRANSACTIONAL, CONTROL = 0x10, 0x20


class Writer:
    def __init__(self):
        self.b = bytearray()

    def pack(self, fmt, *values):
        self.b += struct.pack('>' + fmt, *values)

    def uvarint(self, n):
        while n >= 0x80:
            self.b.append(n & 0x7F | 0x80)
            n >>= 7
        self.b.append(n)

    def varint(self, n):  # zigzag
        self.uvarint((n << 1) ^ (n >> 63))


class Reader:
    def __init__(self, data):
        self.data, self.o = data, 0

    def unpack(self, fmt):
        value = struct.unpack_from('>' + fmt, self.data, self.o)[0]
        self.o += struct.calcsize('>' + fmt)
        return value

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.data[self.o]
            self.o += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def varint(self):
        value = self.uvarint()
        return (value >> 1) ^ -(value & 1)

    def take(self, count):
        data = bytes(self.data[self.o : self.o + count])
        assert len(data) == count, f'{count} bytes wanted, {len(data)} left'
        self.o += count
        return data


def compress(codec, data):
    if codec == NONE:
        return data
    if codec == GZIP:
        return gzip.compress(data)
    if codec == LZ4:
        import lz4.frame

        return lz4.frame.compress(data)
    import cramjam

    return bytes((cramjam.snappy.compress_raw if codec == SNAPPY else cramjam.zstd.compress)(data))


def decompress(codec, data):
    if codec == NONE:
        return data
    if codec == GZIP:
        return gzip.decompress(data)
    if codec == LZ4:
        import lz4.frame

        return lz4.frame.decompress(data)
    import cramjam

    if codec == ZSTD:
        return bytes(cramjam.zstd.decompress(data))
    if data[:8] != b'\x82SNAPPY\0':
        return bytes(cramjam.snappy.decompress_raw(data))
    out, o = b'', 16  # xerial framing: 16 bytes of header, then length-prefixed blocks
    while o < len(data):
        size = struct.unpack_from('>i', data, o)[0]
        out += bytes(cramjam.snappy.decompress_raw(data[o + 4 : o + 4 + size]))
        o += 4 + size
    return out


def xerial_snappy(data, block=32 << 10):
    """Snappy as the Java client frames it."""
    import cramjam

    out = b'\x82SNAPPY\0' + struct.pack('>ii', 1, 1)
    for o in range(0, len(data), block):
        part = bytes(cramjam.snappy.compress_raw(data[o : o + block]))
        out += struct.pack('>i', len(part)) + part
    return out


def record(offset_delta, key, value, timestamp_delta=0, headers=()):
    w = Writer()
    w.b.append(0)  # attributes
    w.varint(timestamp_delta)
    w.varint(offset_delta)
    for field in (key, value):
        w.varint(-1 if field is None else len(field))
        w.b += field or b''
    w.varint(len(headers))
    for name, content in headers:
        w.varint(-1 if name is None else len(name))
        w.b += name or b''
        w.varint(-1 if content is None else len(content))
        w.b += content or b''
    out = Writer()
    out.varint(len(w.b))
    return bytes(out.b + w.b)


def batch(
    records,
    producer_id=-1,
    producer_epoch=-1,
    sequence=-1,
    transactional=False,
    control=False,
    codec=NONE,
    timestamp=None,
    timestamps=None,
    base_offset=0,
    leader_epoch=-1,
    magic=2,
    bad_crc=False,
    count=None,
    last_offset_delta=None,
    attributes=None,
    max_timestamp=None,
    payload=None,
    offset_deltas=None,
):
    """One record batch. records: (key, value) or (key, value, headers). Named options make special or broken batches:
    count and last_offset_delta override the header, payload replaces the (compressed) records."""
    now = int(time.time() * 1000) if timestamp is None else timestamp
    timestamps = timestamps or [now] * len(records)
    first = timestamps[0] if timestamps else now
    deltas = offset_deltas or range(len(records))
    body = b''.join(
        record(deltas[i], r[0], r[1], timestamps[i] - first, r[2] if len(r) > 2 else ()) for i, r in enumerate(records)
    )
    if attributes is None:
        attributes = codec | (TRANSACTIONAL if transactional else 0) | (CONTROL if control else 0)
    after_crc = struct.pack(
        '>hiqqqhii',
        attributes,
        len(records) - 1 if last_offset_delta is None else last_offset_delta,
        first,
        (max(timestamps) if timestamps else now) if max_timestamp is None else max_timestamp,
        producer_id,
        producer_epoch,
        sequence,
        len(records) if count is None else count,
    )
    after_crc += compress(codec, body) if payload is None else payload
    crc = crc32c(after_crc) ^ (1 if bad_crc else 0)
    return struct.pack('>qiibI', base_offset, 9 + len(after_crc), leader_epoch, magic, crc) + after_crc


def legacy_message(magic, key, value):
    """A message set of one message of magic 0 or 1 (Kafka before 0.11)."""
    message = struct.pack('>bb', magic, 0) + (struct.pack('>q', int(time.time() * 1000)) if magic else b'')
    for field in (key, value):
        message += struct.pack('>i', -1 if field is None else len(field)) + (field or b'')
    message = struct.pack('>I', zlib.crc32(message)) + message
    return struct.pack('>qi', 0, len(message)) + message


class Batch(dict):
    """A parsed batch: base, last, size, leader_epoch, magic, crc_ok, codec, log_append_time, transactional, control,
    base_timestamp, max_timestamp, producer_id, producer_epoch, sequence, count, records (a list of Record)."""

    __getattr__ = dict.__getitem__


class Record(dict):
    """A parsed record: offset, timestamp, key, value, headers."""

    __getattr__ = dict.__getitem__


def parse(data):
    """The whole batches in what a fetch returned. A cut batch at the end is dropped, as every client does."""
    batches, o, data = [], 0, data or b''
    while o + 12 <= len(data):
        base, length = struct.unpack_from('>qi', data, o)
        if o + 12 + length > len(data):
            break
        leader_epoch, magic, crc = struct.unpack_from('>ibI', data, o + 12)
        assert magic == 2, f'magic {magic} in a fetch response'
        after_crc = data[o + 21 : o + 12 + length]
        attributes, last_delta, first, newest, pid, epoch, sequence, count = struct.unpack_from('>hiqqqhii', after_crc)
        parsed = Batch(
            base=base,
            last=base + last_delta,
            size=12 + length,
            leader_epoch=leader_epoch,
            magic=magic,
            crc_ok=crc32c(after_crc) == crc,
            attributes=attributes,
            codec=attributes & 7,
            log_append_time=bool(attributes & 8),
            transactional=bool(attributes & TRANSACTIONAL),
            control=bool(attributes & CONTROL),
            base_timestamp=first,
            max_timestamp=newest,
            producer_id=pid,
            producer_epoch=epoch,
            sequence=sequence,
            count=count,
            raw=data[o : o + 12 + length],
            records=[],
        )
        reader = Reader(decompress(parsed.codec, after_crc[40:]) if count else b'')
        for _ in range(count):
            reader.varint()
            reader.unpack('b')
            timestamp_delta, offset_delta = reader.varint(), reader.varint()
            key, value = (reader.take(n) if (n := reader.varint()) >= 0 else None for _ in range(2))
            headers = []
            for _ in range(reader.varint()):
                name = reader.take(reader.varint())
                headers.append((name, reader.take(n) if (n := reader.varint()) >= 0 else None))
            timestamp = newest if parsed.log_append_time else first + timestamp_delta
            parsed['records'].append(
                Record(offset=base + offset_delta, timestamp=timestamp, key=key, value=value, headers=headers)
            )
        batches.append(parsed)
        o += 12 + length
    return batches
