#!/bin/sh
# nvcc.sh LOG COMMAND...: runs nvcc, keeps what it says in LOG (ptxas -v: registers, stack, spills of each kernel, for tests/cuda/gate.py) and shows the rest.
log=$1
shift
"$@" 2>"$log"
rc=$?
grep -vE '^ptxas info|bytes stack frame|^$' "$log" >&2
exit $rc
