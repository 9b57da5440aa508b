#!/bin/bash
# `ray symmetric-run` starts Ray on each machine of an allocation and runs a command on the first, whose exit status
# it passes on. One expects a status other than 0 where Ray could not be started and the command never ran. Here
# the port is taken: it says so, and exits with 0, so that Slurm takes the job for completed. Exits 0 while it does.
# Another Ray on this machine must not be running.
set -eu
folder=$(mktemp -d); holder=
trap 'kill "$holder" 2>/dev/null || true; pkill -f "$folder/ray" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
export PATH=$folder/venv/bin:$PATH RAY_USAGE_STATS_ENABLED=0
cat > "$folder/hold.py" <<'PY'
import socket, sys, time
taken = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1], "w") as f:
    f.write(str(taken.getsockname()[1]))
time.sleep(600)
PY
python "$folder/hold.py" "$folder/port" & holder=$!
until [ -s "$folder/port" ]; do sleep 0.2; done
status=0
ray symmetric-run --address "127.0.0.1:$(cat "$folder/port")" --temp-dir "$folder/ray" -- touch "$folder/ran" \
  > "$folder/said.txt" 2>&1 || status=$?
ran=no; [ -e "$folder/ran" ] && ran=yes
said=no; grep -q "Failed to start Ray" "$folder/said.txt" && said=yes
echo "ray 2.60.0: the command ran: $ran; said that Ray failed to start: $said; exit status: $status"
[ "$ran $said $status" = "no yes 0" ]
