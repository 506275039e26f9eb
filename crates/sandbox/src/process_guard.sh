# Owns one folder: makes it, and removes it with every process that was launched in it when the
# pipe at its standard input closes, which the kernel does however the other side ends.
# $1: where to make the folder; $2: how its name begins.
# Says on standard output which one it is, or why there is none.

# Ends with the pipe, by nothing else.
trap '' HUP INT QUIT TERM
umask 077
folder=$(mktemp -d "$1/$2-XXXXXX" 2>&1) || { echo "error: $folder"; exit 1; }
echo "$folder"
exec >/dev/null

read -r _

# A process that was just about to start may create what was just removed: hence more than once.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    # Each file NAME.pid has the signal that ends a process, and its number.
    for file in "$folder"/*.pid; do
        read -r signal pid 2>/dev/null <"$file" && kill -"$signal" "$pid" 2>/dev/null
    done
    tries=100
    for file in "$folder"/*.pid; do
        read -r signal pid 2>/dev/null <"$file" || continue
        while [ "$tries" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
            sleep 0.1
            tries=$((tries - 1))
        done
    done
    rm -rf "$folder" 2>/dev/null && [ ! -e "$folder" ] && exit 0
    sleep 0.1
done
exit 1
