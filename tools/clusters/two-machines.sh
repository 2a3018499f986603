#!/usr/bin/env bash
# Two machines on one, for as long as a job runs: tools/clusters/two-machines.sh NPROC COMMAND…
# Makes two network namespaces joined by a cable (veth), and a job key in a file of mode 600; starts `fp8lm launch` in both, NPROC
# ranks each, so the ranks of one see those of the other over 10.77.1.1 and 10.77.1.2 only, encrypted. Output of both comes out as
# it is. Needs root and `ip`. Exit code: that of the first machine, else of the second; 77 where namespaces cannot be made.
#   CUT_AFTER=S CUT_SECONDS=T   pulls the cable S seconds after the start, for T seconds
#   MAX_RESTARTS=K              --max-restarts for both launchers
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: $0 NPROC COMMAND…" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "skipped: network namespaces need root" >&2; exit 77; }
command -v ip >/dev/null || { echo "skipped: no ip; apt-get install iproute2" >&2; exit 77; }
nproc=$1
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
a=fp8a$$
b=fp8b$$
folder=$(mktemp -d "${TMPDIR:-/tmp}/fp8two-XXXXXX")
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
  wait
  ip netns del "$a" 2>/dev/null
  ip netns del "$b" 2>/dev/null
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
ip netns add "$a" && ip netns add "$b" || { echo "skipped: network namespaces are not allowed" >&2; exit 77; }
ip -n "$a" link add eth0 type veth peer name eth0 netns "$b"
for end in "$a 10.77.1.1" "$b 10.77.1.2"; do
  set -- ${end} "$@"
  ip -n "$1" addr add "$2/24" dev eth0
  ip -n "$1" link set lo up
  ip -n "$1" link set eth0 up
  shift 2
done
(umask 077 && node -p "crypto.randomBytes(32).toString('base64url')" > "$folder/key")
export FP8_JOB_KEY_FILE=$folder/key
launch() { # namespace, node rank, command…
  local name=$1 rank=$2
  shift 2
  exec ip netns exec "$name" node "$here/packages/fp8-cli/bin/fp8lm.mjs" launch \
    --nproc "$nproc" --nnodes 2 --node-rank "$rank" --master 10.77.1.1:29500 --max-restarts "${MAX_RESTARTS:-0}" -- "$@"
}
launch "$a" 0 "$@" &
pids+=($!)
launch "$b" 1 "$@" &
pids+=($!)
if [ -n "${CUT_AFTER:-}" ]; then
  (
    sleep "$CUT_AFTER"
    ip -n "$a" link set eth0 down
    sleep "${CUT_SECONDS:-1}"
    ip -n "$a" link set eth0 up
  ) &
fi
wait "${pids[0]}"
first=$?
wait "${pids[1]}"
second=$?
pids=()
[ $first -ne 0 ] && exit $first
exit $second
