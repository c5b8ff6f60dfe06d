#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Metrics on the daemon's socket and, if asked for, on a loopback port with the status page: what
# Prometheus itself says about them, the alerts and the dashboard that come with cvol, a browser.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

port=$(free_port)
url=http://127.0.0.1:$port
monitoring=$TOP/packaging/monitoring
odd=$'odd <b>"name"&\\'

fetch() { # PATH [ARGS…]
	local path=$1
	shift
	curl -s -m 20 "$@" "$url/$path"
}

metric() { # SERIES: its value
	fetch metrics | SERIES=$1 awk 'index($0, ENVIRON["SERIES"] " ") == 1 { print $NF }'
}

start_engine nfs
start_cvol --metrics-listen "127.0.0.1:$port"
raw_ok Create "$(jq -nc --arg s "$SOURCE" '{Name: "media", Opts: {source: $s}}')" >/dev/null || bail "create"
raw_ok Create "$(jq -nc --arg n "$odd" '{Name: $n}')" >/dev/null || bail "create"
raw_ok Create '{"Name":"away","Opts":{"source":"nfs://127.0.0.1/nowhere","password":"x"}}' >/dev/null 2>&1
p=$(raw_ok Mount '{"Name":"media","ID":"one"}' | jq -r .Mountpoint)
check "mounted" is_mounted "$p" || bail "nothing to look at"
head -c 2500000 /dev/urandom >"$p/data"
stat "$p/missing" >/dev/null 2>&1
dd if="$p/data" of=/dev/null bs=64k iflag=direct 2>/dev/null

check_equal "bytes written" 2500000 "$(metric 'cvol_written_bytes_total{volume="media"}')"
check_equal "state" 1 "$(metric 'cvol_volume_state{volume="media",state="ok"}')"
check_equal "only one" 0 "$(metric 'cvol_volume_state{volume="media",state="waiting"}')"
check_equal "users" 1 "$(metric 'cvol_volume_users{volume="media"}')"
check_equal "created once" 1 "$(metric 'cvol_operations_total{volume="media",operation="create"}')"
check_equal "no failures" 0 "$(metric 'cvol_operation_errors_total{volume="media",operation="lookup"}')"
check_equal "each write has a latency" "$(metric 'cvol_operations_total{volume="media",operation="write"}')" \
	"$(metric 'cvol_operation_duration_seconds_bucket{volume="media",class="write",le="+Inf"}')"
check_equal "an idle volume is there" 1 "$(metric 'cvol_volume_state{volume="odd <b>\"name\"&\\",state="idle"}')"
fetch metrics >"$T/tmp/metrics"
sed 's/ [^ ]*$//' "$T/tmp/metrics" | sort >"$T/tmp/series"
curl -s -m 20 --unix-socket "$PLUGIN_SOCK" http://cvol/metrics | sed 's/ [^ ]*$//' | sort >"$T/tmp/series-socket"
check "the daemon's socket has the same" cmp "$T/tmp/series" "$T/tmp/series-socket"
check_match "content type" 'text/plain; version=0.0.4' "$(fetch metrics -o /dev/null -w '%{content_type}')"

# What comes with cvol uses metrics that there are.
names=$(grep -oE '^# TYPE [a-z_]+' "$T/tmp/metrics" | cut -d' ' -f3)
unknown=$({
	jq -r '.. | .expr? // empty | strings' "$monitoring/cvol-dashboard.json"
	jq -r '.templating.list[].query | objects | .query' "$monitoring/cvol-dashboard.json"
	grep -E 'expr:|^ +(histogram|\()' "$monitoring/cvol-alerts.yml"
} | grep -oE 'cvol_[a-z_]+' | sort -u | sed -E 's/_bucket$//' | grep -vxF "$names")
check_equal "dashboard and alerts name no unknown metric" "" "$unknown"
check "the dashboard has panels" jq -e '.panels | length > 5' "$monitoring/cvol-dashboard.json"

if command -v promtool >/dev/null; then
	check "promtool: metrics" promtool check metrics <"$T/tmp/metrics"
	check_equal "without a remark" "" "$OUT"
	check "promtool: alerts" promtool check rules "$monitoring/cvol-alerts.yml"
	cat >"$T/tmp/alerts-test.yml" <<-END
		rule_files: ["$monitoring/cvol-alerts.yml"]
		evaluation_interval: 1m
		tests:
		  - interval: 1m
		    input_series:
		      - { series: 'cvol_volume_state{volume="a",state="waiting"}', values: '0 1x20' }
		      - { series: 'cvol_volume_state{volume="b",state="failed"}', values: '0x20' }
		      - { series: 'cvol_write_errors_total{volume="a"}', values: '0x5 1x20' }
		      - { series: 'cvol_write_errors_total{volume="b"}', values: '7x20' }
		      - { series: 'cvol_pending_write_bytes{volume="a"}', values: '4096x30' }
		      - { series: 'cvol_connected{volume="a"}', values: '1 0x30' }
		    alert_rule_test:
		      - { eval_time: 2m, alertname: CvolServerAway, exp_alerts: [] }
		      - eval_time: 4m
		        alertname: CvolServerAway
		        exp_alerts: [{ exp_labels: { severity: warning, volume: a, state: waiting },
		                       exp_annotations: { summary: "volume a waits for its server",
		                         description: "Programs that use it wait, too. cvol doctor a on  says which step fails." } }]
		      - { eval_time: 15m, alertname: CvolVolumeFailed, exp_alerts: [] }
		      - eval_time: 8m
		        alertname: CvolWritesLost
		        exp_alerts: [{ exp_labels: { severity: critical, volume: a },
		                       exp_annotations: { summary: "volume a: the server refused data that was written",
		                         description: "The application got an error from fsync() or close(). Usual causes: no space left, quota." } }]
		      - eval_time: 12m
		        alertname: CvolDataNotStored
		        exp_alerts: [{ exp_labels: { severity: warning, volume: a },
		                       exp_annotations: { summary: "volume a: written data waits for the server",
		                         description: "4kiB are in memory only. Do not switch  off." } }]
	END
	check "promtool: alerts fire when they should, and not before" promtool test rules "$T/tmp/alerts-test.yml"
else
	skip "promtool" "no promtool here (package prometheus)"
fi

# The page.
steps_done() { fetch '' | grep -q '<polyline'; }
check "the page has graphs after two steps" wait_for 20 steps_done
fetch '' >"$T/tmp/page"
check_match "it shows the volume" '<td class=s>media</td>.*<td class=ok>ok</td>' "$(tr -d '\n' <"$T/tmp/page")"
check_match "names mean nothing to HTML" 'odd &#60;b&#62;&#34;name&#34;&#38;' "$(cat "$T/tmp/page")"
check_equal "it loads nothing" "" "$(grep -oiE '(src=|<script|<link|@import|url\()[^>]*' "$T/tmp/page")"
check_match "and is not allowed to" "default-src 'none'" "$(fetch '' -D - -o /dev/null)"
check "status.json" sh -c "curl -s '$url/status.json' | jq -e '.Volumes | length == 2 or length == 3'"
check_equal "somebody else's name for it" 403 "$(fetch '' -H 'Host: rebound.example' -o /dev/null -w '%{http_code}')"
check_equal "localhost is fine" 200 "$(fetch '' -H 'Host: localhost:1' -o /dev/null -w '%{http_code}')"
check_equal "for reading only" 405 "$(fetch '' -X POST -o /dev/null -w '%{http_code}')"
check_equal "Docker's calls are not there" 404 "$(fetch VolumeDriver.List -X POST -d '{}' -o /dev/null -w '%{http_code}')"

if command -v chromium >/dev/null; then
	browser() {
		HOME=$T/home timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
			--user-data-dir="$T/chromium" --window-size=1200,900 "$@"
	}
	mkdir -p "$T/home"
	# The page has no scripts and forbids them by its Content-Security-Policy, so this is without.
	check "a browser takes a picture" browser --screenshot="$T/tmp/page.png" "$url/"
	check "of some size" test "$(stat -c %s "$T/tmp/page.png")" -gt 10000
	dom=$(browser --dump-dom "$url/" 2>/dev/null)
	check_equal "it sees three graphs" 3 "$(grep -o '<figure>' <<<"$dom" | wc -l)"
	check_equal "each with a curve" "" "$(grep -oE '<svg[^>]*></svg>' <<<"$dom")"
	check_match "and the odd name as text" 'odd &lt;b&gt;"name"&amp;\\</td>' "$dom"
else
	skip "a browser shows the page" "no chromium here; it is 360 MB, so the tests do not install it"
fi

# A server that hangs holds up neither.
pid=$(raw_ok Get '{"Name":"media"}' | jq .Volume.Status.worker)
kill -STOP "$pid"
defer kill -CONT "$pid"
check "a stopped worker: metrics" timeout 5 curl -sf -m 5 -o /dev/null "$url/metrics"
check "and page" timeout 5 curl -sf -m 5 -o /dev/null "$url/"
kill -CONT "$pid"

# Where not to listen.
refused() { # ADDRESS
	timeout 10 "$CVOL" daemon --socket "$T/x.sock" --state-dir "$T/x" --run-dir "$T/xrun" --metrics-listen "$1"
}
check_fails "not for everybody" refused "0.0.0.0:$port"
check_match "and says what to do" 'not a loopback address.*in front of 127.0.0.1' "$OUT"
check_fails "nonsense" refused nowhere
check_match "is explained" "127.0.0.1:9123" "$OUT"

# From the configuration file, too; a port that is taken keeps nobody from their volumes.
stop_cvol
mkdir -p "$T/etc-cvol"
echo "{\"metrics_listen\": \"127.0.0.1:$port\"}" >"$T/etc-cvol/cvol.json"
start_cvol --config-dir "$T/etc-cvol"
check "cvol.json: metrics" test -n "$(metric 'cvol_written_bytes_total{volume="media"}')"
stop_cvol
start_cvol --metrics-listen "127.0.0.1:$NFS_PORT"
check "a port that is taken: volumes work" raw_ok Get '{"Name":"media"}'
stop_cvol
start_cvol --metrics-listen "127.0.0.1:$port"

raw_ok Unmount '{"Name":"media","ID":"one"}' >/dev/null
check_equal "not mounted: no series" "" "$(metric 'cvol_written_bytes_total{volume="media"}')"
check "nothing is left" wait_nothing_left 10
finish
