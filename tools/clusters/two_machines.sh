#!/usr/bin/env bash
# Two machines on one: tools/clusters/two_machines.sh NPROC COMMAND…
# Makes two network namespaces joined by a cable, and starts the launcher on each with NPROC ranks of COMMAND, a common key (so all
# traffic is encrypted) and rank 0 on the first. Prints what the first machine prints; the second one's stderr too. Needs root and `ip`.
# Exit code: the first machine's; 77 where namespaces cannot be made.
#
#   tools/clusters/two_machines.sh 2 npx fp8lm train gpt-nano --dp 4 --zero --recipe o2 --steps 50 --out runs/two
set -uo pipefail
command -v ip >/dev/null || { echo "skipped: ip is not here; apt-get install iproute2" >&2; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: namespaces need root" >&2; exit 77; }
[ $# -gt 1 ] || { echo "usage: $0 NPROC COMMAND…" >&2; exit 2; }
nproc=$1
shift

a=fp8m$$a
b=fp8m$$b
second=
finish() {
  [ -n "$second" ] && kill "$second" 2>/dev/null && wait "$second"
  ip netns del $a 2>/dev/null
  ip netns del $b 2>/dev/null
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
ip netns add $a || exit 77
ip netns add $b || exit 77
ip -n $a link add eth0 type veth peer name eth0 netns $b || exit 77
for i in 1 2; do
  ns=$([ $i = 1 ] && echo $a || echo $b)
  ip -n $ns addr add 10.78.0.$i/24 dev eth0
  ip -n $ns link set lo up
  ip -n $ns link set eth0 up
done

FP8_JOB_KEY=$(node -p "crypto.randomBytes(32).toString('base64url')")
export FP8_JOB_KEY
launcher=("$(dirname "$0")/../../packages/fp8-cli/bin/fp8lm.mjs" launch --nproc "$nproc" --nnodes 2 --master 10.78.0.1:29500)
ip netns exec $b node "${launcher[@]}" --node-rank 1 -- "$@" >/dev/null &
second=$!
ip netns exec $a node "${launcher[@]}" --node-rank 0 -- "$@"
code=$?
wait "$second"
second=
exit $code
