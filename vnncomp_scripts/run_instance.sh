#!/bin/sh
# Asks verifkit: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT
# RESULTS_FILE gets unsat, sat, unknown, timeout or error, and after sat the counterexample on the next line.
# Exit status 0: there is an answer, be it unknown or timeout.
set -u

if [ $# -ne 6 ] || [ "$1" != v1 ]; then
    echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT" >&2
    exit 2
fi
. "$(dirname -- "$0")/verifkit.sh"
true >"$5" || exit 1 # before the search: no answer of an earlier run may stay, and none be lost for want of a folder
answer=$(mktemp "${TMPDIR:-/tmp}/verifkit.XXXXXX") || exit 1
asked=
trap 'rm -f "$answer"' EXIT
trap '[ -z "$asked" ] || kill "$asked" 2>/dev/null; wait; exit 143' INT TERM HUP

run_verifkit verify "$3" "$4" --timeout "$6" >"$answer" &
asked=$!
wait "$asked"
word=$(head -n 1 "$answer")
case $word in
    unsat | sat | unknown | timeout) status=0 ;;
    *) word=error status=1 ;;
esac
{
    echo "$word"
    [ "$word" != sat ] || sed -n '/^((X_0 /p' "$answer"
} >"$5" || exit 1
sed '/^((X_0 /d' "$answer"
exit "$status"
