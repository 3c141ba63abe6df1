#!/usr/bin/env bash
# Train with several GPUs or CPU processes on one or more nodes:
#   tools/dist_train.sh CONFIG GPUS_PER_NODE [options of tools/train.py]
# On several nodes, run it on each with NNODES, NODE_RANK, MASTER_ADDR (and MASTER_PORT) set.
# With MAX_RESTARTS=n, all processes restart from the last checkpoint when one dies, at most n times.
# MAX_RESTARTS implies --resume: a checkpoint that exists already is resumed at the first start.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }

# use a rendezvous, hosted by the node of rank 0, that nodes can leave and rejoin. If torch shares
# its TCP store, a node that rejoins waits forever for the address of rank 0.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --nproc_per_node="$2" --max_restarts="${MAX_RESTARTS:-0}" \
    --rdzv_backend=c10d --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${MASTER_PORT:-29500}" \
    --rdzv_id="${JOB_ID:-dblrgan_mm}" --rdzv_conf="is_host=$((${NODE_RANK:-0} == 0))" \
    ${NODE_ADDR:+--local_addr="$NODE_ADDR"} \
    "$(dirname "$0")/train.py" "$1" ${MAX_RESTARTS:+--resume} --launcher pytorch "${@:3}"
