#!/usr/bin/env bash
# All checks and tests that must pass before a change is merged: formatting, go vet, staticcheck, shellcheck, and the
# tests under the race detector. Installs what they need if apt may be used. Prints the seconds of each package, and
# the tests that this machine can't run. All options are passed to go test: ./scripts/test.sh -run Refund -count=3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# The packages that take longest begin first, so that no CPU waits for the last of them.
longest=(./pkg/processor ./pkg/store ./internal/e2e ./internal/chaos ./pkg/imageapi)

# run_tests ARG...: go test, with a report that is easy to read; its status is go test's.
run_tests() {
	local option verbose='' helper status
	# go test stops a package after 10 minutes. With -count=2 the end-to-end tests need more on two CPUs.
	set -- -timeout=45m "$@"
	for option in "$@"; do
		[[ $option != -v && $option != --v && $option != -v=true ]] || verbose=-v
		case $option in -json | --json | -json=true) verbose=json ;; esac
	done
	if [[ $verbose == json ]]; then
		go test -race "$@" "${longest[@]}" ./...
		return
	fi
	helper=$(mktemp -d)
	go build -o "$helper/testreport" ./internal/testreport || { rm -rf "$helper"; return 1; }
	status=0
	go test -race -json "$@" "${longest[@]}" ./... 2>&1 | "$helper/testreport" ${verbose:+"$verbose"} || status=${PIPESTATUS[0]}:${PIPESTATUS[1]}
	rm -rf "$helper"
	case $status in
	0) ;;
	0:*) return "${status#0:}" ;;
	*) return "${status%%:*}" ;;
	esac
}

needs='certificates=ca-certificates postgres=postgresql tinyproxy=tinyproxy microsocks=microsocks pgbouncer=pgbouncer
	squid=squid danted=dante-server privoxy=privoxy haproxy=haproxy v2ray=v2ray
	shellcheck=shellcheck groff=groff-base mandoc=mandoc gcc=build-essential git=git curl=curl promtool=prometheus node=nodejs npm=npm psycopg=python3-psycopg
	chromium=chromium chromedriver=chromium-driver'
case $system in
# What the tests of cron, systemd, terminals and shells need. Elsewhere these tests are skipped.
Linux) needs="$needs crontab=cron systemd-analyze=systemd script=bsdutils unshare=util-linux flock=util-linux zsh=zsh fish=fish" ;;
esac
# shellcheck disable=SC2034 # read by apt_install
no_services=1
# shellcheck disable=SC2086 # a list of words
need $needs
need_go
lint
step "go test in bench" in_bench test ./...
step "go test -race" run_tests "$@"
echo "all passed in $SECONDS s"
