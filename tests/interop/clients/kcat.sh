#!/usr/bin/env bash
# kcat from the system (Debian 12 has 1.7.1 with librdkafka 2.0.2): the old C client. Needs topic auto-creation, because
# kcat cannot create topics.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
command -v kcat > /dev/null || { report SKIP "kcat" "not installed"; finish; }
T="kcat"
k() {
  local rc=0
  timeout 30 kcat -b "$BOOTSTRAP" -X log_level=3 "$@" 2> "$SCRATCH/kcat.err" || rc=$?
  [ $rc = 0 ] || tail -n 1 "$SCRATCH/kcat.err" >&2
  return $rc
}
read_all() { k -C -t "$1" -o beginning -e -q "${@:2}"; }

metadata() { expect "$(k -L -J | grep -c '"brokers":\[{"id":[0-9]*,"name":"[^"]*:[0-9]*"}')" 1; }
auto_create() { echo x | k -P -t "$T-new" && expect "$(k -L -t "$T-new" | grep -c "partition 0, leader")" 1; }
codec() {
  seq 1 2000 | k -P -t "$T-$1" -p 0 -z "$1" -X linger.ms=50 &&
    expect "$(read_all "$T-$1" -p 0 -X check.crcs=true | md5sum)" "$(seq 1 2000 | md5sum)"
}
acks() {
  seq 1 100 | k -P -t "$T-acks$1" -p 0 -X acks="$1" &&
    sleep 1 &&
    expect "$(read_all "$T-acks$1" -p 0 | wc -l)" 100
}
record_parts() {
  printf 'k1:v1\nk2:v2\n' | k -P -t "$T-kv" -p 0 -K: -H h=1 -H e= &&
    expect "$(read_all "$T-kv" -p 0 -f '%o/%k/%s/%h;')" "0/k1/v1/h=1,e=;1/k2/v2/h=1,e=;"
}
tombstone() {
  printf 'k1:\nk2:v\n' | k -P -t "$T-null" -p 0 -K: -Z &&
    expect "$(read_all "$T-null" -p 0 -f '%k=%S;')" "k1=-1;k2=1;"
}
keyed() {   # the default partitioner hashes the key: one key, one partition
  for i in 1 2 3 4 5 6; do echo "same:$i"; done | k -P -t "$T-hash" -K: &&
    expect "$(read_all "$T-hash" -f '%p\n' | sort -u | wc -l)" 1
}
tail_offset() {
  seq 1 10 | k -P -t "$T-tail" -p 0 &&
    expect "$(k -C -t "$T-tail" -p 0 -o -3 -e -q | tr '\n' ' ')" "8 9 10 "
}
middle() {
  seq 1 10 | k -P -t "$T-mid" -p 0 -X linger.ms=100 &&
    expect "$(k -C -t "$T-mid" -p 0 -o 4 -c 2 -q | tr '\n' ' ')" "5 6 "
}
at_time() {
  local now
  echo old | k -P -t "$T-time" -p 0; sleep 1.2
  now=$(date +%s%3N); sleep .2
  echo new | k -P -t "$T-time" -p 0
  expect "$(k -C -t "$T-time" -p 0 -o "s@$now" -e -q)" new &&
    expect "$(k -Q -t "$T-time:0:$now" | grep -o 'offset [-0-9]*')" "offset 1"
}
at_future() {
  echo x | k -P -t "$T-fut" -p 0
  expect "$(k -Q -t "$T-fut:0:$(( $(date +%s%3N) + 3600000 ))" | grep -o 'offset [-0-9]*')" "offset -1"
}
ends() {
  seq 1 5 | k -P -t "$T-ends" -p 0 &&
    expect "$(for o in -2 -1; do k -Q -t "$T-ends:0:$o"; done | grep -o 'offset [0-9]*' | tr '\n' ' ')" \
      "offset 0 offset 5 "
}
beyond_end() {
  echo x | k -P -t "$T-oor" -p 0
  local e
  e=$(timeout 15 kcat -b "$BOOTSTRAP" -C -t "$T-oor" -p 0 -o 999 -X topic.auto.offset.reset=error -e 2>&1 >/dev/null)
  expect "$(grep -ciE 'out of range' <<< "$e" | sed 's/^[1-9].*/yes/')" yes
}
idempotent() {
  seq 1 5000 | k -P -t "$T-idem" -p 0 -X enable.idempotence=true -X linger.ms=1 -X batch.num.messages=100 &&
    expect "$(read_all "$T-idem" -p 0 | md5sum)" "$(seq 1 5000 | md5sum)"
}
big() {
  head -c 700000 /dev/urandom | base64 -w0 | head -c 900000 > "$SCRATCH/big"
  k -P -t "$T-big" -p 0 "$SCRATCH/big" &&
    expect "$(read_all "$T-big" -p 0 | head -c 900000 | md5sum)" "$(md5sum < "$SCRATCH/big")"
}
too_big() {
  head -c 3000000 /dev/zero | tr '\0' x > "$SCRATCH/huge"
  local e
  e=$(timeout 20 kcat -b "$BOOTSTRAP" -P -t "$T-huge" -p 0 -X message.max.bytes=5000000 -X message.timeout.ms=10000 \
    "$SCRATCH/huge" 2>&1)
  expect "$(grep -ci 'Message size too large' <<< "$e")" 1
}
small_fetch() {
  seq 1 3000 | k -P -t "$T-small" -p 0 -X batch.num.messages=50 &&
    expect "$(read_all "$T-small" -p 0 -X fetch.message.max.bytes=1000 -X message.max.bytes=1000 \
      -X fetch.max.bytes=1000 | md5sum)" "$(seq 1 3000 | md5sum)"
}
many() {
  seq 1 200000 | k -P -t "$T-many" -p 0 -z lz4 &&
    expect "$(read_all "$T-many" -p 0 | md5sum)" "$(seq 1 200000 | md5sum)"
}
long_poll() {   # a consumer that waits at the end gets a new record at once, not at its fetch deadline
  echo a | k -P -t "$T-poll" -p 0; ( sleep 3; echo b | k -P -t "$T-poll" -p 0 ) & local t0 t1; t0=$(date +%s%3N)
  k -C -t "$T-poll" -p 0 -o 1 -c 1 -q -X fetch.wait.max.ms=20000 > /dev/null; t1=$(( $(date +%s%3N) - t0 )); wait $!
  [ "$t1" -lt 6000 ] || { echo "took $t1 ms"; return 1; }
}
api_v0() { expect "$(k -L -J -X api.version.request=false -X broker.version.fallback=0.10.2 | grep -c brokers)" 1; }

group_read() {
  seq 1 20 | k -P -t "$T-grp" -p 0
  expect "$(k -G "g-$T" -c 20 -X auto.offset.reset=earliest -q "$T-grp" | md5sum)" "$(seq 1 20 | md5sum)"
}
group_resume() {
  group_read || return 1
  seq 21 25 | k -P -t "$T-grp" -p 0
  expect "$(k -G "g-$T" -c 5 -X auto.offset.reset=earliest -q "$T-grp" | tr '\n' ' ')" "21 22 23 24 25 "
}
group_eof() {
  seq 1 7 | k -P -t "$T-geof"
  expect "$(k -G "ge-$T" -X auto.offset.reset=earliest -e -q "$T-geof" | wc -l)" 7
}
group_two() {   # two members at once: between them every record once
  local o="$SCRATCH/two" m
  seq 1 400 | k -P -t "$T-two" -X linger.ms=5 -X sticky.partitioning.linger.ms=0
  for m in a b; do
    timeout -s INT 14 kcat -b "$BOOTSTRAP" -G "g2-$T" -X auto.offset.reset=earliest -X session.timeout.ms=6000 \
      -X heartbeat.interval.ms=500 ${1:+-X partition.assignment.strategy=$1} -q -u "$T-two" > "$o.$m" 2>/dev/null &
  done
  sleep 8; seq 401 800 | k -P -t "$T-two" -X sticky.partitioning.linger.ms=0; wait
  expect "$(sort -n "$o.a" "$o.b" | uniq | wc -l)" 800 || return 1
  [ -s "$o.a" ] && [ -s "$o.b" ] && return
  echo "one member got nothing: $(wc -l < "$o.a") and $(wc -l < "$o.b")"
  return 1
}
group_regex() {
  echo 1 | k -P -t "$T-rx-1"
  echo 2 | k -P -t "$T-rx-2"
  expect "$(k -G "grx-$T" -c 2 -X auto.offset.reset=earliest -q "^$T-rx-.*" | sort | tr '\n' ' ')" "1 2 "
}
group_static() {
  seq 1 5 | k -P -t "$T-st" -p 0
  local i
  for i in 3 2; do
    k -G "gst-$T" -X group.instance.id=one -c $i -X auto.offset.reset=earliest -q "$T-st"
  done > "$SCRATCH/st"
  expect "$(tr '\n' ' ' < "$SCRATCH/st")" "1 2 3 4 5 "
}

transaction() {
  seq 1 2000 | k -P -t "$T-txn" -p 0 -X transactional.id="tx-$T" &&
    expect "$(read_all "$T-txn" -p 0 -X isolation.level=read_committed | md5sum)" "$(seq 1 2000 | md5sum)"
}
transaction_eof() {   # the commit marker takes an offset
  transaction &&
    expect "$(k -Q -t "$T-txn:0:-1" | grep -o 'offset [0-9]*')" "offset 2001"
}
transaction_again() {
  for i in 1 2 3; do
    echo "$i" | k -P -t "$T-txn3" -p 0 -X transactional.id="tx3-$T" || return 1
  done
  expect "$(read_all "$T-txn3" -p 0 -X isolation.level=read_committed | tr '\n' ' ')" "1 2 3 "
}

unknown_topic() {
  local e
  e=$(timeout 15 kcat -b "$BOOTSTRAP" -C -t "$T-nope" -p 0 -e -X allow.auto.create.topics=false 2>&1 >/dev/null)
  expect "$(grep -ciE 'unknown topic' <<< "$e" | sed 's/^[1-9].*/yes/')" yes
}
rack() { echo x | k -P -t "$T-rack" -p 0 && expect "$(read_all "$T-rack" -p 0 -X client.rack=somewhere)" x; }

scenario 1 "kcat: metadata lists a broker with host and port" metadata
scenario 1 "kcat: producing to an unknown topic creates it (auto.create.topics.enable)" auto_create
for z in none gzip snappy lz4 zstd; do scenario 1 "kcat: $z batches read back unchanged, CRC checked" codec $z; done
for a in 0 1 all; do scenario 1 "kcat: acks=$a records arrive" acks $a; done
scenario 1 "kcat: key, value, headers and offsets read back" record_parts
scenario 1 "kcat: a null value stays null" tombstone
scenario 1 "kcat: one key stays in one partition" keyed
scenario 1 "kcat: -o -3 starts three records before the end" tail_offset
scenario 1 "kcat: an offset inside a batch starts at that record" middle
scenario 1 "kcat: a timestamp maps to the first record at or after it" at_time
scenario 1 "kcat: a timestamp after the last record maps to -1" at_future
scenario 1 "kcat: earliest and latest offsets" ends
scenario 1 "kcat: an offset beyond the end is OFFSET_OUT_OF_RANGE" beyond_end
scenario 1 "kcat: idempotent producer keeps 5000 records in order" idempotent
scenario 1 "kcat: a 900 kB record survives" big
scenario 1 "kcat: a record over max.message.bytes is refused with MESSAGE_TOO_LARGE" too_big
scenario 1 "kcat: fetch limits smaller than a batch still make progress" small_fetch
scenario 1 "kcat: 200000 records in lz4 batches read back unchanged" many
scenario 1 "kcat: a waiting fetch is answered as soon as a record arrives" long_poll
scenario 1 "kcat: metadata without an ApiVersions request (0.10.2 fallback)" api_v0
scenario 2 "kcat: a group reads from the earliest offset" group_read
scenario 2 "kcat: a group resumes at its committed offset" group_resume
scenario 2 "kcat: a group reaches the end of every partition" group_eof
scenario 2 "kcat: two members share the partitions (range)" group_two
scenario 2 "kcat: two members share the partitions (cooperative-sticky)" group_two cooperative-sticky
scenario 2 "kcat: a regex subscription finds its topics" group_regex
scenario 2 "kcat: a static member comes back and resumes" group_static
scenario 3 "kcat: a committed transaction is readable with read_committed" transaction
scenario 3 "kcat: the commit marker takes one offset" transaction_eof
scenario 3 "kcat: a transactional id is reused by three producers in turn" transaction_again
scenario 4 "kcat: consuming a topic that does not exist reports unknown topic and does not create it" unknown_topic
scenario 4 "kcat: a client.rack that no replica has reads from the leader" rack
finish
