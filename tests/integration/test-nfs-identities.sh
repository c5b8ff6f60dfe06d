#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Several users storm one mount at once, while its connection is reset again and again: each acts with his
# own uid and groups, in what is sent for the first time and in what is sent again.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

# What each may do and may not, one after the other, until "stop" is there; says how often that was.
cat >"$T/user.py" <<'END_PY'
import os, stat, sys
d, uid, number = sys.argv[1], int(sys.argv[2]), sys.argv[3]
groups = {0: [], 1000: [3001, 3002], 1001: [3002]}
os.setgroups(groups[uid])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.umask(0)
wrong = 0

def expect(ok, *what):
    global wrong
    if not ok:
        wrong += 1
        if wrong <= 5:
            print("user", uid, *what)

def refused(what, call, *args):
    try:
        r = call(*args)
    except PermissionError:
        return
    except OSError as e:
        expect(False, what, e)
        return
    expect(False, what, "was allowed", r)

def allowed(what, call, *args):
    try:
        return call(*args)
    except OSError as e:
        expect(False, what, e)

def put(path, mode):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(fd, b"x" * 5000)
    os.close(fd)

def get(path):
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)

n = 0
while not os.path.exists(d + "/stop"):
    n += 1
    name = "%s/all/%d.%s.%d" % (d, uid, number, n)
    allowed("a file", put, name, 0o600)
    st = allowed("its attributes", os.stat, name)
    expect(st and (st.st_uid, st.st_gid) == (uid, uid), "a file of", st and st.st_uid, st and st.st_gid)
    allowed("reading it", get, name)
    allowed("a directory", os.mkdir, name + ".d", 0o700)
    allowed("a file in it", put, name + ".d/f", 0o600)
    allowed("removing that", os.unlink, name + ".d/f")
    allowed("a link", os.symlink, "x", name + ".l")
    st = allowed("of whom", os.lstat, name + ".l")
    expect(st and st.st_uid == uid, "a link of", st and st.st_uid)
    for other in 0, 1000, 1001:
        mine = "%s/of-%d/f" % (d, other)
        if uid in (0, other):
            allowed("one's own", get, mine)
        else:
            refused("another's file", get, mine)
            refused("a name in another's directory", put, "%s/of-%d/new%d.%d" % (d, other, uid, n), 0o600)
            refused("another's owner", os.chown, "%s/all/of-%d" % (d, other), uid, -1)
            refused("another's mode", os.chmod, "%s/all/of-%d" % (d, other), 0o777)
    for group in 3001, 3002:
        what = "%s/group-%d/%d.%s.%d" % (d, group, uid, number, n)
        if uid == 0 or group in groups[uid]:
            allowed("a file of the group", put, what, 0o640)
            allowed("removing it", os.unlink, what)
        else:
            refused("another group's directory", put, what, 0o640)
    if n % 3:
        for end in "", ".l":
            allowed("removing", os.unlink, name + end)
        allowed("removing the directory", os.rmdir, name + ".d")
with open("%s/rounds.%d.%s" % (sys.argv[4], uid, number), "w") as f:
    f.write("%d\n" % n)
sys.exit(wrong != 0)
END_PY

storm() {
	local engine=$1 m=$T/mnt-$1 pids=() i uid number
	start_engine "$engine"
	start_proxy "$engine" "$NFS_PORT"
	mount_volume "${SOURCE/127.0.0.1/127.0.0.1:$PROXY_PORT}" "$m" "$OPTIONS,mountport=$MNT_PORT,cache=$2" || bail "mount"
	mkdir -m 1777 "$m/all"
	for uid in 0 1000 1001; do
		mkdir -m 700 "$m/of-$uid"
		echo secret >"$m/of-$uid/f"
		echo x >"$m/all/of-$uid"
		chown -R "$uid:$uid" "$m/of-$uid" "$m/all/of-$uid"
	done
	for i in 3001 3002; do
		mkdir "$m/group-$i"
		chown "0:$i" "$m/group-$i"
		chmod 770 "$m/group-$i"
	done
	mkdir -m 777 "$T/rounds-$engine"
	for uid in 0 1000 1001; do
		for number in 1 2; do
			python3 "$T/user.py" "$m" "$uid" "$number" "$T/rounds-$engine" >>"$T/tmp/said-$engine" 2>&1 &
			pids+=($!)
		done
	done
	for ((i = 0; i < 20; i++)); do
		sleep 0.4
		proxy_cmd "$engine" reset
	done
	touch "$m/stop"
	for i in "${!pids[@]}"; do
		check "$engine: the storm ends ($i)" wait_gone 30 "${pids[i]}"
		wait "${pids[i]}"
		check_equal "$engine: nobody was taken for another ($i)" 0 "$?"
	done
	check_equal "$engine: nothing was wrong" "" "$(cat "$T/tmp/said-$engine")"
	note "$engine: rounds: $(cat "$T/rounds-$engine"/* | tr '\n' ' ')"
	check_equal "$engine: all of them were at it" 6 "$(cat "$T/rounds-$engine"/* | awk '$1 > 5' | wc -l)"
	# What the server says, without cvol.
	for uid in 0 1000 1001; do
		check_equal "$engine: what $uid has made is his on the server" "" \
			"$(find "$SERVER_DIR/all" -name "$uid.*" ! -uid "$uid")"
		check_equal "$engine: and there is some" true "$([ -n "$(find "$SERVER_DIR/all" -name "$uid.*" -uid "$uid" | head -n 1)" ] && echo true)"
		check_equal "$engine: nobody else was in his directory" f "$(ls "$SERVER_DIR/of-$uid")"
		check_equal "$engine: nobody has changed his file" "$uid" "$(stat -c %u "$SERVER_DIR/all/of-$uid")"
	done
	rm -rf "${m:?}"/*
	check "$engine: unmount" unmount_volume "$m"
}

# Without caching, so that the server is asked each time; once as people have it.
storm nfs strict
storm nfs4 strict
storm nfs40 default
check "nothing is left" wait_nothing_left 10
finish
