"""Kafka's wire protocol, driven by Kafka's own message specifications. No client library is involved.

    Codec('FetchRequest', 12).encode({...})     one message body of one version, as bytes
    Conn('127.0.0.1:9092').call('Metadata', 12, {...})    one connection; fields are named as in the specification
    batch([...]), parse(bytes)                  record batches (from records.py)

A field that is left out is encoded with its default. A response must decode to its last byte, and responses must arrive
in the order of their requests, or AssertionError is raised.
"""

import collections, glob, json, os, re, socket, struct, uuid

from records import batch, parse, legacy_message, crc32c, Writer, Reader  # noqa: F401  (re-exported)

HERE = os.path.dirname(os.path.abspath(__file__))
# Kafka's message specifications, which the tests of the wire crate are held to as well.
SPECIFICATIONS = os.path.join(HERE, '../../../crates/millpond-wire/tests/kafka-4.2.1')


# ---------------------------------------------------------------------------------------------- specifications
def _load_schemas():
    found = {}
    for path in glob.glob(os.path.join(SPECIFICATIONS, '*.json')):
        text = open(path, encoding='utf8').read()
        text = re.sub(r'^\s*//.*$', '', text, flags=re.M)
        text = re.sub(r'(?<=[,\[{}\]"])\s*//[^"\n]*$', '', text, flags=re.M)
        schema = json.loads(text)
        found[schema['name']] = schema
    assert found, f'no message specifications in {SPECIFICATIONS}'
    return found


def _load_errors():
    rows = [
        line.rstrip('\n').split('\t') for line in open(os.path.join(HERE, 'errors.tsv')) if not line.startswith('#')
    ]
    return {int(row[0]): row[1] for row in rows}


SCHEMAS = _load_schemas()
ERRORS = _load_errors()
CODES = {name: code for code, name in ERRORS.items()}
API_NAMES = {s['apiKey']: s['name'][:-7] for s in SCHEMAS.values() if s['type'] == 'request'}


def error_name(code):
    return f'{code} {ERRORS.get(code, "?")}'


def version_range(text):
    """'3-5' -> (3, 5), '3+' -> (3, 32767), '3' -> (3, 3), 'none' -> an empty range."""
    if text in (None, 'none'):
        return 1, 0
    if text.endswith('+'):
        return int(text[:-1]), 32767
    low, _, high = text.partition('-')
    return int(low), int(high or low)


def _has(text, version):
    low, high = version_range(text)
    return low <= version <= high


def _versions(field):
    return field.get('versions') or field['taggedVersions']


def api_key(api):
    return SCHEMAS[api + 'Request']['apiKey']


# ---------------------------------------------------------------------------------------------- message bodies
PRIMITIVES = {'int8': 'b', 'int16': 'h', 'uint16': 'H', 'int32': 'i', 'uint32': 'I', 'int64': 'q', 'float64': 'd'}


def _default(field):
    kind, default = field['type'], field.get('default', '')
    if default in ('null', None):
        return None
    if kind.startswith('[]'):
        return []
    if kind in PRIMITIVES:
        if default == '':
            return 0
        return float(default) if kind == 'float64' else int(str(default), 0)
    if kind == 'bool':
        return str(default).lower() == 'true'
    if kind == 'string':
        return default
    return {'bytes': b'', 'records': None, 'uuid': bytes(16)}.get(kind, {})


class Codec:
    """Encodes and decodes one message type in one version."""

    def __init__(self, name, version):
        self.schema, self.version = SCHEMAS[name], version
        self.flexible = _has(self.schema.get('flexibleVersions', 'none'), version)
        self.structs = {s['name']: s['fields'] for s in self.schema.get('commonStructs', [])}
        self._collect(self.schema['fields'])

    def _collect(self, fields):
        for field in fields:
            if 'fields' in field:
                self.structs[field['type'].replace('[]', '')] = field['fields']
                self._collect(field['fields'])

    def encode(self, value):
        writer = Writer()
        self._write_struct(writer, self.schema['fields'], value)
        return bytes(writer.b)

    def decode(self, data, strict=True):
        reader = Reader(data)
        value = self._read_struct(reader, self.schema['fields'])
        assert not strict or reader.o == len(
            data
        ), f'{self.schema["name"]} v{self.version}: {len(data) - reader.o} bytes left over after decoding'
        return value

    # writing
    def _write_length(self, w, length, is_string):
        """length -1 is null"""
        if self.flexible:
            w.uvarint(length + 1)
        else:
            w.pack('h' if is_string else 'i', length)

    def _write(self, w, kind, value, field):
        if kind in PRIMITIVES:
            w.pack(PRIMITIVES[kind], value)
        elif kind == 'bool':
            w.pack('?', value)
        elif kind == 'uuid':
            w.b += value.bytes if isinstance(value, uuid.UUID) else value
        elif kind in ('string', 'bytes', 'records'):
            if value is None:
                return self._write_length(w, -1, kind == 'string')
            data = value.encode() if isinstance(value, str) else value
            self._write_length(w, len(data), kind == 'string')
            w.b += data
        elif kind.startswith('[]'):
            if value is None:
                return self._write_length(w, -1, False)
            self._write_length(w, len(value), False)
            for element in value:
                self._write(w, kind[2:], element, None)
        else:
            if field is not None and _has(field.get('nullableVersions', 'none'), self.version):
                w.pack('b', -1 if value is None else 1)
                if value is None:
                    return
            self._write_struct(w, self.structs[kind], value)

    def _write_struct(self, w, fields, value):
        unknown = set(value) - {f['name'] for f in fields}
        assert not unknown, f'{self.schema["name"]} has no field {unknown}; it has {[f["name"] for f in fields]}'
        tagged = []
        for field in fields:
            if not _has(_versions(field), self.version):
                continue
            if 'tag' in field and _has(field['taggedVersions'], self.version):
                if field['name'] in value:
                    tagged.append(field)
                continue
            self._write(w, field['type'], value.get(field['name'], _default(field)), field)
        if self.flexible:
            w.uvarint(len(tagged))
            for field in sorted(tagged, key=lambda f: f['tag']):
                inner = Writer()
                self._write(inner, field['type'], value[field['name']], field)
                w.uvarint(field['tag'])
                w.uvarint(len(inner.b))
                w.b += inner.b

    # reading
    def _read_length(self, r, is_string):
        return r.uvarint() - 1 if self.flexible else r.unpack('h' if is_string else 'i')

    def _read(self, r, kind, field):
        if kind in PRIMITIVES:
            return r.unpack(PRIMITIVES[kind])
        if kind == 'bool':
            return bool(r.unpack('b'))
        if kind == 'uuid':
            return r.take(16)
        if kind in ('string', 'bytes', 'records'):
            length = self._read_length(r, kind == 'string')
            if length < 0:
                return None
            data = r.take(length)
            return data.decode('utf8', 'replace') if kind == 'string' else data
        if kind.startswith('[]'):
            length = self._read_length(r, False)
            return None if length < 0 else [self._read(r, kind[2:], None) for _ in range(length)]
        if field is not None and _has(field.get('nullableVersions', 'none'), self.version) and r.unpack('b') < 0:
            return None
        return self._read_struct(r, self.structs[kind])

    def _read_struct(self, r, fields):
        value, tagged = {}, {}
        for field in fields:
            value[field['name']] = _default(field)
            if 'tag' in field and _has(field.get('taggedVersions', 'none'), self.version):
                tagged[field['tag']] = field
            elif _has(_versions(field), self.version):
                value[field['name']] = self._read(r, field['type'], field)
        if self.flexible:
            for _ in range(r.uvarint()):
                tag, size = r.uvarint(), r.uvarint()
                end = r.o + size
                if tag in tagged:
                    value[tagged[tag]['name']] = self._read(r, tagged[tag]['type'], tagged[tag])
                r.o = end
        return value


# ---------------------------------------------------------------------------------------------- connections
class Conn:
    """One TCP connection. Responses must come in request order; `recv` checks the correlation id."""

    def __init__(self, address, timeout=20):
        host, port = address.rsplit(':', 1)
        self.address = address
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0
        self.expected = collections.deque()  # correlation ids of the requests not yet answered

    def close(self):
        self.socket.close()

    def frame(self, api, version, body, client_id='kwire', header_tags=b'\0', raw_body=None):
        """The bytes of one request without the length prefix; remembers its correlation id in self.correlation."""
        codec = Codec(api + 'Request', version)
        self.correlation += 1
        w = Writer()
        w.pack('hhi', codec.schema['apiKey'], version, self.correlation)
        if client_id is None:
            w.pack('h', -1)
        else:
            w.pack('h', len(client_id))
            w.b += client_id.encode()
        if codec.flexible:
            w.b += header_tags
        return bytes(w.b) + (codec.encode(body) if raw_body is None else raw_body)

    def send(self, api, version, body, answered=True, **frame_options):
        payload = self.frame(api, version, body, **frame_options)
        if answered:
            self.expected.append(self.correlation)
        self.send_frame(payload)
        return self.correlation

    def send_frame(self, payload):
        self.socket.sendall(struct.pack('>i', len(payload)) + payload)

    def recv_frame(self, timeout=None):
        if timeout is not None:
            self.socket.settimeout(timeout)
        return self._exactly(struct.unpack('>i', self._exactly(4))[0])

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError('the broker closed the connection')
            data += part
        return bytes(data)

    def recv(self, api, version):
        data = self.recv_frame()
        codec = Codec(api + 'Response', version)
        reader = Reader(data)
        correlation, want = reader.unpack('i'), self.expected.popleft()
        assert correlation == want, f'response order: expected correlation id {want}, got {correlation}'
        if codec.flexible and api != 'ApiVersions':  # ApiVersions: always response header v0
            for _ in range(reader.uvarint()):
                reader.uvarint()
                reader.take(reader.uvarint())
        return codec.decode(data[reader.o :])

    def call(self, api, version, body, **frame_options):
        self.send(api, version, body, **frame_options)
        return self.recv(api, version)

    def closed_by_broker(self, timeout=5):
        """True when the broker closes the connection within the timeout without sending anything."""
        self.socket.settimeout(timeout)
        try:
            return self.socket.recv(1) == b''
        except (ConnectionError, BrokenPipeError):
            return True
        except socket.timeout:
            return False
