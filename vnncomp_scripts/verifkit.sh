# Read by the other scripts. run_verifkit ARGUMENTS: the command that install_tool.sh has installed, else the one on the
# path; VERIFKIT, a command line, goes before both. It takes the shell's place, so that whoever ends the one ends the
# other: call it in a subshell, or with &.
tool_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ -z "${VERIFKIT:-}" ]; then
    VERIFKIT=verifkit
    [ ! -x "$tool_root/.venv/bin/verifkit" ] || VERIFKIT=$tool_root/.venv/bin/verifkit
    run_verifkit() { exec "$VERIFKIT" "$@"; }
else
    # shellcheck disable=SC2086 (a command line: its words are meant to be told apart)
    run_verifkit() { exec $VERIFKIT "$@"; }
fi
