#!/usr/bin/env bash
# The heart of action.yml: measures base and head with a store each, and compares them.
#
# Ends with 0 whatever it finds, so that later steps run; the verdict is the output `exit-code`.
set -o pipefail

work=$RUNNER_TEMP/crossfire
report=$work/comparison.md
rm -rf "$work" && mkdir -p "$work" || exit 2
read -r -d '' -a command <<< "$CROSSFIRE"
read -r -d '' -a arguments <<< "$RUN_ARGS"

# finish CODE: write the report into the summary of the job, and the verdict into the outputs.
finish() {
    cat "$report" >> "$GITHUB_STEP_SUMMARY"
    printf 'exit-code=%s\nreport=%s\n' "$1" "$report" >> "$GITHUB_OUTPUT"
    exit 0
}

# give_up CODE REASON: say in one line why there is no comparison, in the log as an error and in the report.
give_up() {
    echo "::error title=Crossfire::$2"
    printf '### Crossfire: nothing was compared\n\n    %s\n' "$2" > "$report"
    finish "$1"
}

# keeping_errors COMMAND...: run it, and keep the last line of its standard error, where the reason of a failure is.
keeping_errors() {
    local code
    { "$@" 2>&1 >&3 | tee "$work/errors" >&2; code=${PIPESTATUS[0]}; } 3>&1
    why=$(tail -n 1 "$work/errors")
    return "$code"
}

run_setup() {
    cd "$1" && eval "$SETUP"
}

run_table() {
    cd "$1" && "${command[@]}" run "$CONFIG" --store "$work/$2" --report "$work/$2-report" "${arguments[@]}"
}

# measure FOLDER SIDE: returns 3 where cells failed, which is for the comparison to judge.
measure() {
    local code
    echo "::group::Measure the $2"
    keeping_errors run_setup "$1" || give_up 2 "$2: the setup failed: $why"
    keeping_errors run_table "$1" "$2"
    code=$?
    echo "::endgroup::"
    [ "$code" = 0 ] || [ "$code" = 3 ] || give_up "$code" "$2: $why"
    return "$code"
}

# The commit before a push that creates a branch is all zeros.
[ -n "${BASE//0/}" ] || give_up 2 "no commit to compare with: give the input 'base', or run on pull_request"
git cat-file -e "$BASE^{commit}" 2> /dev/null \
    || git fetch --quiet --no-tags --depth 1 origin "$BASE" \
    || give_up 2 "the base $BASE is not in the repository"
git worktree add --quiet --detach "$work/tree" "$BASE" || give_up 2 "the base $BASE cannot be checked out"
trap 'git worktree remove --force "$work/tree"' EXIT

# The head comes first, because a new mistake in the table is there.
measure "$PWD" head
head=$?
measure "$work/tree" base

lost=()
[ "$ALLOW_LOST" != true ] || lost=(--allow-lost)
keeping_errors "${command[@]}" compare "$work/base" "$work/head" \
    --format md --out "$report" --min-effect "$MIN_EFFECT" "${lost[@]}"
code=$?
[ -s "$report" ] || give_up "$((code > 0 ? code : 2))" "${why:-no report was written}"
cat "$report"
[ "$code" != 0 ] || code=$head
finish "$code"
