#!/usr/bin/env python3
"""Follows Copyhold's event log with Python alone: each event once and in order, from where it stopped the last time.

    docs/agents/follow.py http://127.0.0.1:9180 cursor [KIND,…]

The file `cursor` keeps how far it has come. A token, if one is needed, is in COPYHOLD_HTTP__TOKEN.
"""
import http.client, json, os, random, sys, time, urllib.error, urllib.parse, urllib.request

url, cursor_file, kinds = (sys.argv + [""])[1:4]
token = os.environ.get("COPYHOLD_HTTP__TOKEN")
# An event of another program may hold a number of any length.
getattr(sys, "set_int_max_str_digits", lambda digits: None)(0)


def handle(event):
    """Your work goes here. What it raises ends the agent, which begins with this event again."""
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
            told, epoch = json.load(answer), answer.headers["Copyhold-Epoch"]
    except (OSError, ValueError, http.client.HTTPException) as error:
        # 410 and 409 mean: take stock of what you follow, then write another id into the file.
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            sys.exit(json.load(error)["error"])
        time.sleep(random.uniform(0.5, 1.5))
        continue
    for event in told["events"]:
        handle(event)
        store(f"{event['id']}@{epoch}")
    if told["next"] != cursor:
        store(cursor := told["next"])
