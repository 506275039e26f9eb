#!/usr/bin/env bash
# Passes on what `cargo test` prints, line by line, and adds up the closing lines of its test programs.
set -euo pipefail

passed=0 failed=0 ignored=0 filtered=0 programs=0
counts='([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored; [0-9]+ measured; ([0-9]+) filtered out'
while IFS= read -r line; do
    printf '%s\n' "$line"
    if [[ $line == "test result: "* && $line =~ $counts ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        ignored=$((ignored + BASH_REMATCH[3]))
        filtered=$((filtered + BASH_REMATCH[4]))
        programs=$((programs + 1))
    fi
done
verdict=ok
[ "$failed" = 0 ] || verdict=FAILED
printf '\ntest result: %s. %d passed; %d failed; %d ignored; 0 measured; %d filtered out; in all %d test programs\n' \
    "$verdict" "$passed" "$failed" "$ignored" "$filtered" "$programs"
