#!/bin/sh
# Installs verifkit for VNN-COMP into the folder .venv beside this one: install_tool.sh v1
set -eu

if [ "${1:-}" != v1 ]; then
    echo "usage: install_tool.sh v1" >&2
    exit 2
fi
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "verifkit needs Python 3.11 or newer: set PYTHON")'
[ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
"$root/.venv/bin/python" -m pip install --disable-pip-version-check --quiet \
    --constraint "$root/constraints.txt" "$root[smt]"
"$root/.venv/bin/verifkit" --version
