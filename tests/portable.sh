#!/usr/bin/env bash
# The fast tests under conditions that other machines have, several at a time, and a table of what each gave.
# portable.sh PYTHON [WORDS FOR PYTEST]: from the root of the tree, with the interpreter of a complete environment.
set -uo pipefail

python=$(realpath -s "$1") && shift
tree=$PWD
place=$(mktemp -d)
copy="$place/a path, with ü/lenient"
user=65534 # nobody's; has no rights and no home
home=$place/home
busy=
trap 'kill $busy 2>/dev/null; chmod -R u+w "$place"; rm -rf "$place"' EXIT
table=()
failed=0

note() { # CONDITIONS OUTCOME
    table+=("$(printf '%-72s %s' "$1" "$2")")
}

try() { # CONDITIONS COMMAND...: from the current folder; the last line that pytest says is the outcome
    local conditions=$1 said
    shift
    echo "--- $conditions"
    "$@" 2>&1 | tee "$place/said" || failed=1
    said=$(grep -E '[0-9]+ (passed|failed|error)|no tests ran' "$place/said" | tail -n 1 | tr -d '=')
    note "$conditions" "${said:-did not run: $(tail -n 1 "$place/said")}"
}

suite=(-m pytest -p no:cacheprovider -n auto --maxprocesses 8 --dist worksteal --durations=10 --basetemp="$place/tests" "$@")
export OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1

try "no vectors in ATen, SSE4.1 in oneDNN; 1 thread; files in random order" \
    env ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 \
    "$python" "${suite[@]}" --shuffle 1

"$python" -c 'while True: pass' &
busy=$!
try "AVX2 in ATen and oneDNN; 2 threads; beside a busy process" \
    env ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 \
    "$python" "${suite[@]}" --shuffle 2
kill "$busy"
busy=

# a copy under a path with a space and an umlaut, with HOME read-only, in another language, by an ordinary user
mkdir -p "$copy" "$home"
tar -c -C "$tree" --exclude=./.venv* --exclude=./runs --exclude='*.egg-info' . | tar -x -C "$copy"
conditions="path with a space and an umlaut; HOME read-only"
rights=(env)
if [ "$(id -u)" = 0 ]; then
    if command -v setpriv >/dev/null && setpriv --reuid $user --regid $user --clear-groups env "$python" -c "import torch" 2>/dev/null; then
        rights=(setpriv --reuid $user --regid $user --clear-groups env)
        chown -R $user:$user "$place"
        conditions+="; ordinary user"
    else
        home=/proc # where even root can write nothing
        note "ordinary user" "skipped: $python cannot be run by one, or there is no setpriv"
    fi
else
    conditions+="; ordinary user"
fi
language=$(locale -a 2>/dev/null | grep -iE '^(tr_TR|de_DE|fr_FR|ja_JP)\.utf-?8$' | sort -r | head -n 1)
if [ -n "$language" ]; then
    conditions+="; $language"
else
    note "a locale that is not English" "skipped: there are only $(locale -a | tr '\n' ' ')"
fi
[ "$home" = /proc ] || chmod 500 "$home"
cd "$copy" || exit
try "$conditions" \
    "${rights[@]}" HOME="$home" LC_ALL="${language:-C.UTF-8}" PYTHONPATH="$copy/src" OMP_NUM_THREADS=1 TMPDIR="$place" \
    "$python" "${suite[@]}"
cd "$tree" || exit

# other versions of Python, each with an environment that stays
for version in 3.12 3.13; do
    if "python$version" -c '' 2>/dev/null; then
        try "Python $version" make test VENV=".venv-$version" PYTHON="python$version" ARGS="$*"
    else
        note "Python $version" "skipped: no python$version"
    fi
done

printf '\n%s\n' "What each gave"
printf '%s\n' "${table[@]}"
exit $failed
