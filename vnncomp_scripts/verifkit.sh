# Read by the other scripts. run_verifkit ARGUMENTS: the command that install_tool.sh has installed, else the one on the
# path; VERIFKIT, a command line, goes before both.
tool_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ -z "${VERIFKIT:-}" ]; then
    VERIFKIT=verifkit
    [ ! -x "$tool_root/.venv/bin/verifkit" ] || VERIFKIT=$tool_root/.venv/bin/verifkit
    run_verifkit() { "$VERIFKIT" "$@"; }
else
    # shellcheck disable=SC2086 (a command line: its words are meant to be told apart)
    run_verifkit() { $VERIFKIT "$@"; }
fi
