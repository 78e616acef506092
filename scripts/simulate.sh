#!/usr/bin/env bash
# Simulates a day of the queue: how long tasks wait, what of PostgreSQL, the processors' hosts and the proxy is used, which of them is the limit,
# and what to change (docs/scaling.md). Exit code 0; 3 if something is full; 2 for wrong usage; 1 if it could not do its work.
#   ./scripts/simulate.sh [--tasks 20000] [--seconds 30] [--concurrency 3] [--processors 1] [--bandwidth 100] [--json]
#   --check    works a real load of some seconds on a private PostgreSQL, and compares it with its simulation
#   --help     shows this text and all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

case ${1-} in
--help | -h)
	sed -n '2,6s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	echo
	;;
esac
need_go
for option in "$@"; do
	case $option in
	--check | -check) need postgres=postgresql ;;
	esac
done
program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
(cd bench && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$program/simulate" ./simulate)
status=0
"$program/simulate" "$@" || status=$?
exit "$status"
