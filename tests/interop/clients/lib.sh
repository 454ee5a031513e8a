# Sourced by every runner in this folder: options, cache folder, cases in bash, and the last line.
#   BOOTSTRAP=127.0.0.1:9092   the broker under test
#   TIER=4 or --tier N         run tiers 1..N;  TIER==N (an equals sign before the number) runs tier N only
#   ONLY=regex                 run only the cases whose name matches
#   CONFORMANCE_CACHE=…        where clients are installed and built (kept between runs)
set -u
while [ $# -gt 0 ]; do case "$1" in
  --tier) TIER="$2"; shift 2 ;;
  --tier=*) TIER="${1#--tier=}"; shift ;;
  *) echo "unknown option $1 (known: --tier N)" >&2; exit 2 ;;
esac; done
export BOOTSTRAP="${BOOTSTRAP:-127.0.0.1:9092}" TIER="${TIER:-4}" ONLY="${ONLY:-.}"
export CACHE="${CONFORMANCE_CACHE:-${TMPDIR:-/tmp}/millpond-conformance}"; mkdir -p "$CACHE"
SCRATCH="$(mktemp -d)"; trap 'rm -rf "$SCRATCH"' EXIT
RUN="$(printf '%(%H%M%S)T' -1)$RANDOM"          # part of every topic and group name
RESULTS="$SCRATCH/results"; : > "$RESULTS"

tier_wanted() { case "$TIER" in =*) [ "$1" = "${TIER#=}" ] ;; *) [ "$1" -le "$TIER" ] ;; esac; }

# report PASS|FAIL|SKIP "name" ["reason"]
report() { echo "$1 $2${3:+: $3}" | tee -a "$RESULTS"; }

# scenario TIER "name" function [arguments…]: the function's last line of output is the reason when it fails (77:
# skipped).
# Scenarios run JOBS at a time, each with its own folder SCRATCH and its own topic prefix T.
CASE=0; PIDS=()
scenario() {
  local tier="$1" name="[$1] $2"; shift 2
  tier_wanted "$tier" && [[ "$name" =~ $ONLY ]] || return 0
  while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-4}" ]; do wait -n; done
  CASE=$((CASE + 1))
  (
    T="${T:-t}-$RUN-$CASE"; SCRATCH="$SCRATCH/$CASE"; mkdir -p "$SCRATCH"; trap - EXIT
    rc=0; out="$("$@" 2>&1)" || rc=$?
    case "$rc" in 0) report PASS "$name" ;; 77) report SKIP "$name" "$(tail -n 1 <<< "$out")" ;;
      *) report FAIL "$name" "$(tail -n 1 <<< "$out" | cut -c1-300)" ;; esac
  ) &
  PIDS+=($!)
}

# expect GOT WANT
expect() { [ "$1" = "$2" ] || { echo "got '${1:0:120}', want '${2:0:120}'"; return 1; }; }

# setup COMMAND…: quiet unless it fails
setup() {
  "$@" > "$SCRATCH/setup.log" 2>&1 && return
  tail -n 30 "$SCRATCH/setup.log" >&2
  report FAIL "set-up" "${*:0:3} …"
  finish
}

# cases LIMIT_S COMMAND…: a program that prints its own PASS, FAIL and SKIP lines; killed after LIMIT_S seconds.
# Its log is shown only when it prints no result at all or is cut.
cases() {
  local limit="$1" rc=0; shift
  timeout -k 5 "$limit" "$@" 2> "$SCRATCH/stderr" | grep --line-buffered -aE '^(PASS|FAIL|SKIP) ' |
    tee "$SCRATCH/lines" | tee -a "$RESULTS"
  rc="${PIPESTATUS[0]}"
  case "$rc" in
    0 | 1) ;;
    124 | 137) report FAIL "time limit" "$limit s" ;;
    *) report FAIL "runner" "exit $rc: $(grep -av '^$' "$SCRATCH/stderr" | tail -n 1 | cut -c1-200)" ;;
  esac
  # One tier alone may have no case.
  if [ ! -s "$SCRATCH/lines" ] && [ "$ONLY" = . ] && [[ "$TIER" != =* ]]; then
    report FAIL "runner" "printed no result: $(tail -n 1 "$SCRATCH/stderr" | cut -c1-200)"
  fi
}

# Fails at once when nothing listens, instead of case by case.
reachable() {
  local first="${BOOTSTRAP%%,*}"
  timeout 5 bash -c "exec 3<>/dev/tcp/${first%:*}/${first##*:}" 2> /dev/null && return
  report FAIL "broker" "nothing listens on $first"
  finish
}

finish() {
  [ ${#PIDS[@]} = 0 ] || wait "${PIDS[@]}"
  local p f s; p=$(grep -ac '^PASS' "$RESULTS"); f=$(grep -ac '^FAIL' "$RESULTS"); s=$(grep -ac '^SKIP' "$RESULTS")
  echo "$p passed, $f failed, $s skipped"; [ "$f" = 0 ]; exit $?
}
reachable
