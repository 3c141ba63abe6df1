#!/usr/bin/env bash
# Train on several GPUs, or processes, of one or more nodes:
#   tools/dist_train.sh CONFIG GPUS_PER_NODE [options of tools/train.py]
# On each of several nodes, with NNODES, NODE_RANK and MASTER_ADDR (and MASTER_PORT) set.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
    --nproc_per_node="$2" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
