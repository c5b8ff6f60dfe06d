#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# What the SFTP engine asks ahead (directories below a listing, names in a directory, attributes
# after a change) is never told when it is older than a change of our own: walks through a tree, with
# changes in the middle of them, see at every point what the server has.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_engine sftp
mkdir -p "$T/mnt"
cat >"$T/walk.py" <<'EOT'
import os, random, sys
mnt, server, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.mkdir(server)
rng = random.Random(4)

for i in range(12):
	for j in range(4):
		os.makedirs(f"{server}/a{i}/b{j}")
		for k in range(12):
			with open(f"{server}/a{i}/b{j}/f{k}", "w") as f:
				f.write("x" * k)
os.mkdir(f"{server}/large")
for k in range(1500):
	with open(f"{server}/large/n{k}", "w") as f:
		f.write("y")

def one(path):
	try:
		st = os.lstat(path)
		return (st.st_size, st.st_mode)
	except FileNotFoundError:
		return None

def tree(top):
	out = {}
	for path, dirs, files in os.walk(top):
		for n in files:
			out[os.path.relpath(f"{path}/{n}", top)] = one(f"{path}/{n}")
		for n in dirs:
			out[os.path.relpath(f"{path}/{n}", top)] = "directory"
	return out

def differ(what, a, b):
	bad = sorted(k for k in set(a) | set(b) if a.get(k) != b.get(k))
	if bad:
		sys.exit(f"{what}: {len(bad)} differ, {bad[0]}: mount {a.get(bad[0])}, server {b.get(bad[0])}")

def change(path, dirs, files, n):
	what = rng.randrange(7)
	if what == 0:
		with open(f"{path}/new{n}", "w") as f:
			f.write("z" * rng.randrange(100))
	elif what == 1 and files:
		with open(f"{path}/{files[0]}", "a") as f:
			f.write("more")
	elif what == 2 and files:
		os.unlink(f"{path}/{files[-1]}")
	elif what == 3:
		os.makedirs(f"{path}/dir{n}/sub", exist_ok=True)
		with open(f"{path}/dir{n}/sub/x", "w") as f:
			f.write("1")
	elif what == 4 and files:
		os.rename(f"{path}/{files[0]}", f"{mnt}/moved{n}-{rng.randrange(10**9)}")
	elif what == 5 and dirs:
		os.rename(f"{path}/{dirs[0]}", f"{path}/renamed{n}-{rng.randrange(10**9)}")
		dirs.clear()
	elif what == 6 and files:
		os.chmod(f"{path}/{files[0]}", 0o600 | rng.randrange(64))

differ("first walk", tree(mnt), tree(server))
for n in range(rounds):
	for path, dirs, files in os.walk(mnt):
		if rng.random() < 0.4:
			try:
				change(path, dirs, files, n)
			except FileNotFoundError:
				pass # renamed a moment ago, by ourselves
			other = f"{server}/{os.path.relpath(path, mnt)}"
			differ(path, {k: one(f"{path}/{k}") for k in files}, {k: one(f"{other}/{k}") for k in files})
	differ(f"walk {n}", tree(mnt), tree(server))
EOT
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "cvol mount"
check "walks with changes in them see what the server has" \
	timeout 60 python3 "$T/walk.py" "$T/mnt/near" "$SERVER_DIR/near" 8
# A name that another host makes in a directory of ours is seen after a second.
mkdir "$T/mnt/ours"
check "a new directory is empty" test ! -e "$T/mnt/ours/theirs"
echo x >"$SERVER_DIR/ours/theirs"
check "what another host puts there is found" wait_for 5 test -e "$T/mnt/ours/theirs"
check "unmount" unmount_volume "$T/mnt"
# At a distance directories are read along with the lookup of their names, too.
start_proxy ssh "$SSH_PORT" -d 1
write_known_hosts "$T/tmp/hosts" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
cat "$T/tmp/hosts" >>"$SSH_KNOWN_HOSTS"
mount_volume "${SOURCE/:$SSH_PORT/:$PROXY_PORT}" "$T/mnt" "$OPTIONS" || bail "cvol mount"
check "the same at a distance" timeout 60 python3 "$T/walk.py" "$T/mnt/far" "$SERVER_DIR/far" 2
cat >"$T/links.py" <<'EOT'
import os, sys
mnt, server = sys.argv[1:]
for i in range(20):
	os.makedirs(f"{server}/t{i}/sub")
	open(f"{server}/t{i}/sub/theirs", "w").close()
	os.symlink(f"t{i}", f"{server}/l{i}")
os.mkdir(f"{server}/many")
for k in range(700):
	open(f"{server}/many/{k}", "w").close()
for i in range(20):
	# What a link leads to is read along with its lookup, and is not what is below its own name.
	assert os.readlink(f"{mnt}/l{i}") == f"t{i}"
	os.unlink(f"{mnt}/l{i}")
	os.makedirs(f"{mnt}/l{i}/sub")
	assert os.listdir(f"{mnt}/l{i}/sub") == [], i
	# Nor is what was in a directory that has been replaced by us.
	assert os.path.isdir(f"{mnt}/t{i}")
	os.rename(f"{mnt}/t{i}", f"{mnt}/old{i}")
	os.makedirs(f"{mnt}/t{i}/sub")
	assert os.listdir(f"{mnt}/t{i}/sub") == [], i
	assert os.listdir(f"{mnt}/old{i}/sub") == ["theirs"], i
# More than is read along.
assert os.path.isdir(f"{mnt}/many")
for k in range(0, 700, 70):
	assert os.stat(f"{mnt}/many/{k}").st_size == 0
assert len(os.listdir(f"{mnt}/many")) == 700
EOT
check "what was guessed of links and replaced directories is nobody's" timeout 30 python3 "$T/links.py" "$T/mnt" "$SERVER_DIR"
check "unmount" unmount_volume "$T/mnt"
check "nothing is left" wait_nothing_left 5
finish
