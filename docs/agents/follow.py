#!/usr/bin/env python3
"""Follows Copyhold's event log with Python alone: each event once and in order, resuming where it stopped.

    docs/agents/follow.py http://127.0.0.1:9180 cursor [KIND,…]

The file `cursor` stores the position. Set COPYHOLD_HTTP__TOKEN if the daemon requires a token.
"""
import http.client, json, os, random, sys, time, urllib.error, urllib.parse, urllib.request

url, cursor_file, kinds = (sys.argv + [""])[1:4]
token = os.environ.get("COPYHOLD_HTTP__TOKEN")
# Another program's event may contain a number of any length.
getattr(sys, "set_int_max_str_digits", lambda digits: None)(0)


def handle(event):
    """Your code goes here. An exception ends the agent; started again, it begins with this event."""
    print(json.dumps(event), flush=True)


def store(cursor):
    with open(cursor_file + ".new", "w") as file:
        file.write(cursor)
        file.flush()
        os.fsync(file.fileno())
    os.replace(cursor_file + ".new", cursor_file)


cursor = open(cursor_file).read().strip() if os.path.exists(cursor_file) else "0"
while True:
    query = urllib.parse.urlencode({"wait": "20s", "after": cursor} | ({"kinds": kinds} if kinds else {}))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/events?{query}", headers=headers), timeout=60) as answer:
            page, epoch = json.load(answer), answer.headers["Copyhold-Epoch"]
    except (OSError, ValueError, http.client.HTTPException) as error:
        # After 410 or 409, read the current state of what you follow, then write another id into the file.
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            sys.exit(json.load(error)["error"])
        time.sleep(random.uniform(0.5, 1.5))
        continue
    for event in page["events"]:
        handle(event)
        store(f"{event['id']}@{epoch}")
    if page["next"] != cursor:
        store(cursor := page["next"])
