#!/usr/bin/env bash
# Python clients: confluent-kafka, aiokafka, kafka-python newest and 2.0.2.
#   CLIENTS="confluent aiokafka kafka_python kafka_python_old" picks some.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/python" && pwd)"
environment() {   # a virtual environment named after its requirements, so that changed pins make a new one
  ENV="$CACHE/python-$(md5sum < "$HERE/$1" | cut -c1-10)"
  [ ! -e "$ENV/ready" ] || return 0
  setup python3 -m venv "$ENV"
  setup "$ENV/bin/pip" -q --disable-pip-version-check install -r "$HERE/$1"
  touch "$ENV/ready"
}
for client in ${CLIENTS:-confluent aiokafka kafka_python kafka_python_old}; do
  case "$client" in
    kafka_python_old) environment requirements-old.txt; cases 150 "$ENV/bin/python" "$HERE/kafka_python_cases.py" ;;
    *) environment requirements.txt; cases 200 "$ENV/bin/python" "$HERE/${client}_cases.py" ;;
  esac
done
finish
