#!/usr/bin/env bash
# A Slurm cluster of one node, for as long as a command runs: tools/clusters/slurm.sh COMMAND…
# Starts munged, slurmctld and slurmd of Debian's slurm-wlm and munge in a temporary folder with ports of their own, without
# systemd and without touching /etc; runs the command with SLURM_CONF set, so that srun and sbatch talk to this cluster; ends the
# three daemons and removes the folder. Needs root. Exit code: the command's; 77 where the packages are missing.
set -uo pipefail
for program in munged slurmctld slurmd srun; do
  if ! command -v "$program" >/dev/null; then
    echo "skipped: $program is not here; apt-get install slurm-wlm munge" >&2
    exit 77
  fi
done
[ "$(id -u)" = 0 ] || { echo "skipped: slurmd needs root" >&2; exit 77; }
[ $# -gt 0 ] || { echo "usage: $0 COMMAND…" >&2; exit 2; }

folder=$(mktemp -d "${TMPDIR:-/tmp}/fp8slurm-XXXXXX")
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
  for pid in "${pids[@]}"; do
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null
  done
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

host=$(hostname -s)
port=$((21000 + $$ % 9000))
mkdir "$folder/state" "$folder/spool" "$folder/munge"
chmod 700 "$folder/munge"
chmod 755 "$folder"
head -c 1024 /dev/urandom > "$folder/munge/key"
chmod 400 "$folder/munge/key"
cat > "$folder/slurm.conf" <<CONF
ClusterName=fp8lm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2>"$folder/munge/err" &
pids+=($!)
for _ in $(seq 100); do [ -S "$folder/munge.socket" ] && break; sleep 0.1; done
slurmctld -D 2>"$folder/slurmctld.err" &
pids+=($!)
slurmd -D -N "$host" 2>"$folder/slurmd.err" &
pids+=($!)
for _ in $(seq 300); do
  state=$(sinfo --noheader --format=%T 2>/dev/null)
  [ "$state" = idle ] && break
  sleep 0.1
done
if [ "$state" != idle ]; then
  echo "slurm: the node is ${state:-not known} after 30 s" >&2
  tail -n 20 "$folder"/munge/err "$folder"/*.log "$folder"/*.err >&2
  exit 1
fi
"$@"
