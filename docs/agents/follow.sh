#!/bin/sh
# Follows Copyhold's event log with curl alone: each event once and in order, resuming where it stopped.
#
#   docs/agents/follow.sh http://127.0.0.1:9180 cursor [KIND,…]
#
# The file `cursor` stores the position. Set COPYHOLD_HTTP__TOKEN if the daemon requires a token.
set -eu
url=$1 cursor=$2 kinds=${3:-}

handle() { # the event as JSON; your code goes here. A failure ends the agent; started again, it begins with this event
    printf '%s\n' "$1"
}

follow() { # one connection, until it breaks or the daemon ends
    # On standard input, so that the process list does not show the token.
    if [ -n "${COPYHOLD_HTTP__TOKEN:-}" ]; then
        printf 'header = "Authorization: Bearer %s"\n' "$COPYHOLD_HTTP__TOKEN"
    fi | curl --config - --silent --no-buffer --keepalive-time 30 --get --write-out '\nstatus: %{http_code}\n' \
        --data-urlencode "after=$(cat "$cursor" 2>/dev/null || echo 0)" ${kinds:+--data-urlencode "kinds=$kinds"} \
        "$url/v1/events"
}

while :; do
    follow | while IFS= read -r line; do
        case $line in
        'id: '*) id=${line#id: } event=message ;;
        'event: '*) event=${line#event: } ;; # a bookmark: no matching event up to this id
        'data: '*)
            [ "$event" = bookmark ] || handle "${line#data: }"
            echo "$id" >"$cursor.new" && mv "$cursor.new" "$cursor"
            ;;
        '{'*) echo "$line" >&2 ;;     # the daemon's error message
        'status: 4'*) exit 1 ;;       # after 410 or 409, read the current state, then write another id into the file
        esac
    done
    sleep "$(awk 'BEGIN { srand(); print 0.5 + rand() }')"
done
