#!/usr/bin/env bash
# Train on several GPUs, or processes, of one or more nodes:
#   tools/dist_train.sh CONFIG GPUS_PER_NODE [options of tools/train.py]
# On each of several nodes, with NNODES, NODE_RANK and MASTER_ADDR (and MASTER_PORT) set. With
# MAX_RESTARTS=n the processes start again from the last checkpoint when one dies, n times at most;
# a checkpoint that is there already is gone on from, as with --resume.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }

# a rendezvous that nodes can leave and join again; the node of rank 0 keeps it. With torch's sharing
# of its store, a node that joins again waits in vain for the address of rank 0.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --nproc_per_node="$2" --max_restarts="${MAX_RESTARTS:-0}" \
    --rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${MASTER_PORT:-29500}" \
    --rdzv_id="${JOB_ID:-dblrgan_mm}" --rdzv_conf="is_host=$((${NODE_RANK:-0} == 0))" \
    ${NODE_ADDR:+--local_addr="$NODE_ADDR"} \
    "$(dirname "$0")/train.py" "$1" ${MAX_RESTARTS:+--resume} --launcher pytorch "${@:3}"
