#!/usr/bin/env bash
# A Slurm cluster of its own on this machine, for tests/test_slurm_cluster.py or to try tools/slurm_sweep.sh:
#   slurm_cluster.sh start DIRECTORY [NODES]    munged, slurmctld and so many slurmd (default 2), with all they write there
#   slurm_cluster.sh node DIRECTORY NODE        start the daemon of one node again, such as n1
#   slurm_cluster.sh stop DIRECTORY             end them all
# After the start, SLURM_CONF=DIRECTORY/slurm.conf sbatch ... goes there. It needs Debian's packages slurm-wlm and munge
# (slurmd has to know the option -N), no configuration of the machine's, and disturbs none.
set -euo pipefail

start() {
    local directory nodes=${2:-2}
    mkdir -p "$1"
    directory=$(cd "$1" && pwd)
    mkdir -p "$directory"/{munge,state,spool}
    (umask 077 && head -c 128 /dev/urandom >"$directory/munge/key")
    # --force: this directory's parents may be writable by others, as /tmp is
    munged --force --key-file "$directory/munge/key" --socket "$directory/munge/socket" \
        --pid-file "$directory/munge/pid" --log-file "$directory/munge/log" --seed-file "$directory/munge/seed"
    configuration "$directory" "$nodes" >"$directory/slurm.conf"
    export SLURM_CONF=$directory/slurm.conf
    slurmctld -c
    for number in $(seq "$nodes"); do node "$directory" "n$number"; done
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --Node --partition=work --format=%T 2>/dev/null | grep -c idle)" -eq "$nodes" ] && return
        sleep 0.1
    done
    echo "error: not all nodes are up after 10 s; see $directory/*.log" >&2
    sinfo >&2
    exit 1
}

configuration() { # of a cluster in directory $1 with $2 nodes
    local ports
    # free ones, also while another such cluster is started
    read -ra ports < <(python3 -c '
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets: each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))' "$(($2 + 1))")
    cat <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${ports[0]}
# A task that is requeued waits for as long as a credential is valid: two minutes, if nothing is said.
AuthInfo=socket=$1/munge/socket,cred_expire=6
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MaxArraySize=20
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0,bf_interval=1
# A node whose daemon is gone is given up soon, and its tasks are started elsewhere.
SlurmdTimeout=6
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
END
    for number in $(seq "$2"); do
        # One core each, so that a node has one task at a time.
        echo "NodeName=n$number NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[number]} CPUs=1 RealMemory=4000 State=UNKNOWN"
    done
    echo "PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1"
    echo "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2"
}

node() {
    local directory
    directory=$(cd "$1" && pwd)
    mkdir -p "$directory/spool/$2"
    SLURM_CONF=$directory/slurm.conf slurmd -N "$2"
}

stop() {
    local file
    for file in "$1"/n*.pid "$1"/slurmctld.pid "$1"/munge/pid; do
        [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
    done
}

command=${1:-}
shift || true
case "$command" in
    start | node | stop) "$command" "$@" ;;
    *) sed -n '2,7s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
