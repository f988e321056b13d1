#!/usr/bin/env bash
# Writes the report as a comment on the pull request; the next run replaces the text of the same comment.
#
# A comment that cannot be written is a warning: the verdict does not depend on it.
set -uo pipefail

errors=$(mktemp)
body=$(mktemp)

refused() {
    echo "::warning title=Crossfire::no comment was written: $(tail -n 1 "$errors"); the job needs 'pull-requests: write'"
    exit 0
}

# Several tables, or one with several arguments, have a comment each.
table=$(printf '%s\n' "$DIRECTORY" "$CONFIG" "$RUN_ARGS" | git hash-object --stdin)
marker="<!-- crossfire ${table:0:16} -->"
{ echo "$marker"; cat "$REPORT"; } > "$body"
# A comment holds 65,536 characters.
if [ "$(wc -m < "$body")" -gt 65000 ]; then
    run=$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID
    { echo "$marker"; head -n 1 "$REPORT"; printf '\nThe report is long: it is in the [summary of the run](%s).\n' "$run"; } > "$body"
fi
comments=repos/$GITHUB_REPOSITORY/issues
mine=$(gh api --paginate "$comments/$NUMBER/comments" \
    --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id" 2> "$errors") || refused
if [ -n "$mine" ]; then
    gh api --silent --method PATCH "$comments/comments/${mine%%$'\n'*}" --field body=@"$body" 2> "$errors" || refused
else
    gh api --silent --method POST "$comments/$NUMBER/comments" --field body=@"$body" 2> "$errors" || refused
fi
