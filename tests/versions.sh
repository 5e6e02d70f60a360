#!/usr/bin/env bash
# The fast tests with the lowest versions of direct requirements that pyproject.toml allows, and with the newest that
# the index has, each in an environment that stays (.venv-lowest, .venv-newest; several GB each), and what each gave.
# versions.sh PYTHON [WORDS FOR PYTEST]: from the root of the tree.
set -uo pipefail

python=$1 && shift
table=()
failed=0
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1

for which in lowest newest; do
    place=.venv-$which
    echo "--- $which: $place"
    said="could not be installed"
    [ -x "$place/bin/python" ] || "$python" -m venv "$place" || exit
    : >"$place/wanted.txt"
    [ $which = newest ] || "$python" tests/lowest.py dev >"$place/wanted.txt" || exit
    if "$place/bin/python" -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager \
        -c "$place/wanted.txt" -e '.[dev]'; then
        "$place/bin/python" -m pytest -n auto --maxprocesses 8 --dist worksteal --basetemp="$PWD/$place/tests" "$@" |
            tee "$place/said.txt" || failed=1
        said=$(grep -E '[0-9]+ (passed|failed|error)|no tests ran' "$place/said.txt" | tail -n 1 | tr -d '=')
    else
        failed=1
    fi
    torch=$("$place/bin/python" -c 'import torch; print(torch.__version__)' 2>/dev/null)
    table+=("$(printf '%-8s torch %-14s %s' "$which" "${torch:-?}" "${said:-did not run}")")
done

printf '\n%s\n' "What each gave"
printf '%s\n' "${table[@]}"
exit $failed
