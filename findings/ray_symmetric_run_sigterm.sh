#!/bin/bash
# SIGTERM is how Slurm ends a task whose time is over, or that it starts anew. One expects `ray symmetric-run`, which
# stops its Ray whenever the command ends and on Ctrl-C, to stop it then as well. It leaves Ray running, and the
# next symmetric-run on this machine refuses: "Ray is already started on this node." Exits 0 while it does so.
# Another Ray on this machine must not be running.
set -eu
folder=$(mktemp -d)
trap 'pkill -f "$folder/ray" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
export PATH=$folder/venv/bin:$PATH RAY_USAGE_STATS_ENABLED=0
port() { python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
ray symmetric-run --address "127.0.0.1:$(port)" --temp-dir "$folder/ray" -- \
  sh -c "touch $folder/running; exec sleep 20" > "$folder/first.txt" 2>&1 & first=$!
for _ in $(seq 120); do [ -e "$folder/running" ] && break; sleep 0.5; done
[ -e "$folder/running" ] || { cat "$folder/first.txt"; exit 1; }
kill -TERM "$first"; wait "$first" && ended=0 || ended=$?
sleep 5
left=no; pgrep -f "gcs_server.*$folder/ray" > /dev/null && left=yes
again=0
ray symmetric-run --address "127.0.0.1:$(port)" --temp-dir "$folder/ray" -- true > "$folder/again.txt" 2>&1 || again=$?
refused=no; grep -q "already started on this node" "$folder/again.txt" && refused=yes
echo "ray 2.60.0: ended with $ended; Ray still runs: $left; the next one refuses: $refused, with $again"
[ "$left $refused $again" = "yes yes 1" ]
