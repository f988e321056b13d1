#!/usr/bin/env bash
# Writes the report as a comment on the pull request; the next run replaces the text of the same comment.
set -euo pipefail

marker='<!-- crossfire -->'
body=$RUNNER_TEMP/crossfire/comment.md
{ echo "$marker"; cat "$REPORT"; } > "$body"
# A comment holds 65,536 characters.
if [ "$(wc -m < "$body")" -gt 65000 ]; then
    run=$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID
    { echo "$marker"; head -n 1 "$REPORT"; printf '\nThe report is long: it is in the [summary of the run](%s).\n' "$run"; } > "$body"
fi
comments=repos/$GITHUB_REPOSITORY/issues
mine=$(gh api --paginate "$comments/$NUMBER/comments" --jq ".[] | select(.body | startswith(\"$marker\")) | .id")
if [ -n "$mine" ]; then
    gh api --silent --method PATCH "$comments/comments/${mine%%$'\n'*}" --field body=@"$body"
else
    gh api --silent --method POST "$comments/$NUMBER/comments" --field body=@"$body"
fi
