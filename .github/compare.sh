#!/usr/bin/env bash
# The heart of action.yml: measures base and head with a store each, and compares them.
#
# Ends with 0 whatever it finds, so that later steps run; the verdict is the output `exit-code`.
set -o pipefail

# A job may use the action several times: each use has a folder of its own, and no report replaces another.
work=$(mktemp -d "$RUNNER_TEMP/crossfireXXXXXXXX") || exit 2
report=$work/comparison.md
compared=false

# finish CODE: write the report into the summary of the job, and the verdict into the outputs.
finish() {
    cat "$report" >> "$GITHUB_STEP_SUMMARY"
    printf '%s\n' "exit-code=$1" "compared=$compared" "report=$report" >> "$GITHUB_OUTPUT"
    exit 0
}

# give_up CODE REASON: say in one line why there is no comparison, in the log as an error and in the report.
give_up() {
    local reason
    reason=$(with_commits <<< "$2")
    echo "::error title=Crossfire::${reason//%/%25}"
    printf '### Crossfire: nothing was compared\n\n    %s\n' "$reason" > "$report"
    finish "$1"
}

# not_yet REASON: the base has no such table, which is no fault of a pull request that adds it.
not_yet() {
    echo "::notice title=Crossfire::nothing to compare with yet: ${1//%/%25}"
    printf '### Crossfire: nothing to compare with yet\n\n    %s\n' "$1" > "$report"
    finish 0
}

# with_commits: filter a text; where it names the stores, which nobody will see, it then names what was measured.
with_commits() {
    local folder="[^ '\"]*/${work##*/}" end='([^-[:alnum:]]|$)'
    sed -E -e "s#$folder/base$end#base ${commit:0:10}\1#g" -e "s#$folder/head$end#$head_name\1#g"
}

# split NAME TEXT: divide a text into the array NAME as a shell does, with its quotes, and run nothing of it.
split() {
    local word
    words=()
    [[ $2 == *[![:space:]]* ]] || return 0
    xargs printf '%s\0' <<< "$2" > "$work/words" 2> "$work/errors" \
        || give_up 2 "the input '$1' has a quote without its end: $2"
    while IFS= read -r -d '' word; do words+=("$word"); done < "$work/words"
}

# keeping_errors COMMAND...: run it, and keep the last line of its standard error, where the reason of a failure is.
keeping_errors() {
    local code
    { "$@" 2>&1 >&3 | tee "$work/errors" >&2; code=${PIPESTATUS[0]}; } 3>&1
    why=$(tail -n 1 "$work/errors")
    return "$code"
}

# fetch REFERENCE OPTION...: the commit is FETCH_HEAD then.
fetch() {
    keeping_errors git fetch --quiet --no-tags "${@:2}" -- origin "$1"
}

is_shallow() {
    [ "$(git rev-parse --is-shallow-repository)" = true ]
}

# Sets `base` for a pull request. The head alone may lack what the base branch got since: that would look like a loss.
choose_base_of_pull_request() {
    local parents options=()
    # The commit itself names its parents, also in a shallow clone, which has none.
    read -r -d '' -a parents < <(git cat-file commit HEAD | sed -n -e '/^$/q' -e 's/^parent //p')
    if [ "${#parents[@]}" = 2 ] && [ "${parents[1]}" = "$PULL_HEAD" ]; then
        base=${parents[0]}
        head_name="$head_name (${PULL_HEAD:0:10} merged into the base)"
        return
    fi
    ! is_shallow || options=(--unshallow)
    fetch "refs/heads/$PULL_BASE" "${options[@]}" || give_up 2 "the base branch $PULL_BASE cannot be fetched: $why"
    base=$(git merge-base FETCH_HEAD HEAD) || give_up 2 "HEAD and the base branch $PULL_BASE have no commit in common"
    [ "$base" != "$(git rev-parse HEAD)" ] \
        || give_up 2 "the base branch $PULL_BASE contains what is checked out: check out the pull request"
}

# Sets `commit`, and fetches it where the clone lacks it.
find_base() {
    local options=()
    commit=$(git rev-parse --quiet --verify "$base^{commit}") && git cat-file -e "$commit" 2> /dev/null && return
    # In a full clone this option would cut the history off.
    ! is_shallow || options=(--depth 1)
    fetch "$base" "${options[@]}" && commit=$(git rev-parse --quiet --verify 'FETCH_HEAD^{commit}') \
        || give_up 2 "the base $base is neither here nor at origin, as a branch, a tag or a full hash: $why"
}

# has COMMIT PATH: whether git has it there, seen from the current folder.
has() {
    git cat-file -e "$1:./$2" 2> /dev/null
}

in_folder() {
    cd "$1" && "${@:2}"
}

# measure FOLDER SIDE OTHER: returns 3 where cells failed, which is for the comparison to judge. OTHER is the commit of the
# other side, of whose cells no more than those are measured that differ where that is asked for.
measure() {
    local code since=()
    [ "$CHANGED_SINCE" != true ] || since=(--changed-since "$3")
    echo "::group::Measure the $2"
    # Into a file: a pipe would be held open by a server that the setup leaves behind.
    (in_folder "$1" bash --noprofile --norc -e -o pipefail -c "$SETUP") 2> "$work/errors"
    code=$?
    cat "$work/errors" >&2
    why=$(tail -n 1 "$work/errors")
    if [ "$code" != 0 ]; then
        echo "::endgroup::"
        give_up 2 "$2: the setup failed with exit code $code${why:+: $why}"
    fi
    keeping_errors in_folder "$1" "${command[@]}" run "$CONFIG" \
        --store "$work/$2" --report "$work/$2-report" "${since[@]}" "${arguments[@]}"
    code=$?
    echo "::endgroup::"
    [ "$code" = 0 ] || [ "$code" = 3 ] || give_up "$code" "$2: $why"
    return "$code"
}

has_results() {
    compgen -G "$work/$1/cells/*.json" > /dev/null
}

# without_comparison CODE REASON: of the cells that differ, one side or both have none.
without_comparison() {
    echo "::notice title=Crossfire::$2"
    printf '### Crossfire: nothing to compare\n\n    %s\n' "$2" > "$report"
    finish "$1"
}

# Where only what differs was measured, ends if there are no two sides of it.
require_two_sides() {
    local base_has=false head_has=false
    ! has_results base || base_has=true
    ! has_results head || head_has=true
    case $base_has-$head_has in
        false-false) without_comparison 0 "no cell differs from the base ${commit:0:10}" ;;
        false-true) without_comparison "$head" "the cells that differ are new: the base ${commit:0:10} lacks them" ;;
        true-false)
            [ "$ALLOW_LOST" = true ] || give_up 1 "coverage lost: the cells that differ are gone from the head"
            without_comparison 0 "the cells that differ are gone from the head, which allow-lost accepts" ;;
    esac
}

case $CHANGED_SINCE in
    true | false | "") ;;
    *) give_up 2 "the input 'changed-since' is true or false; the commit to compare with is the input 'base'" ;;
esac
split command "$CROSSFIRE"
command=("${words[@]}")
split args "$RUN_ARGS"
arguments=("${words[@]}")
cd "$DIRECTORY" 2> /dev/null || give_up 2 "the input 'working-directory': there is no folder $DIRECTORY"
folder=$(git rev-parse --show-prefix 2> "$work/errors") \
    || give_up 2 "git finds no repository in $PWD: $(tr -s '[:space:]' ' ' < "$work/errors")"
head_name=$(git rev-parse HEAD 2> /dev/null) || give_up 2 "the repository in $PWD has no commit yet"
head_name="head ${head_name:0:10}"

base=$BASE
[ -n "$base" ] || [ -z "$PULL_HEAD" ] || choose_base_of_pull_request
# The commit before a push that creates a branch is all zeros.
base=${base:-$BEFORE}
[ -n "${base//0/}" ] || give_up 2 "no commit to compare with: give the input 'base', or run on pull_request"
find_base

# A table that git does not have on either side is a preset, or is made by the setup.
! has HEAD "$CONFIG" || has "$commit" "$CONFIG" || not_yet "the base ${commit:0:10} has no $folder$CONFIG"
! has HEAD "" || has "$commit" "" || not_yet "the base ${commit:0:10} has no folder $folder"
keeping_errors git worktree add --quiet --detach "$work/tree" "$commit" \
    || give_up 2 "the base ${commit:0:10} cannot be checked out: $why"
trap 'git worktree remove --force "$work/tree"' EXIT

# The head comes first, because a new mistake in the table is there.
measure "$PWD" head "$commit"
head=$?
measure "$work/tree/$folder" base "$(git rev-parse HEAD)"
[ "$CHANGED_SINCE" != true ] || require_two_sides

lost=()
[ "$ALLOW_LOST" != true ] || lost=(--allow-lost)
keeping_errors "${command[@]}" compare "$work/base" "$work/head" \
    --format md --out "$report" --min-effect "$MIN_EFFECT" --same-within "$SAME_WITHIN" "${lost[@]}"
code=$?
[ -s "$report" ] || give_up "$((code > 0 ? code : 2))" "${why:-no report was written}"
only=
[ "$CHANGED_SINCE" != true ] || only=", of the cells that differ"
measured="run $CONFIG${arguments[*]:+ ${arguments[*]}}"
{ with_commits < "$report"; printf '\nMeasured on both sides%s:\n\n    %s\n' "$only" "$measured"; } \
    > "$work/named.md" && mv "$work/named.md" "$report"
cat "$report"
[ "$code" = 2 ] || compared=true
[ "$code" != 0 ] || code=$head
finish "$code"
