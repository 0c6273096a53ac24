#!/bin/sh
# Whether verifkit can take an instance: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Analyses nothing. Exit status 0: it can; anything else: the instance is to be skipped.
set -u

if [ $# -ne 4 ] || [ "$1" != v1 ]; then
    echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2
    exit 2
fi
. "$(dirname -- "$0")/verifkit.sh"
(run_verifkit supports "$3" "$4" >&2)
