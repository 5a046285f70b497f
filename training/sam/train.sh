#!/bin/sh
# Trains the nano SAM until the given UTC time: training/sam/train.sh RUN_DIR 01:40 [python]
# One thread; large tensors are kept by malloc instead of being mapped anew at every operation.
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
exec "${3:-python3}" "$(dirname "$0")/train.py" --out "$1" --until "$2"
