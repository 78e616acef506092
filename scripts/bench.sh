#!/usr/bin/env bash
# Measures imagetasks beside River, graphile-worker and pgbench, in turns on one private PostgreSQL with fsync on, and writes the table of
# docs/benchmarks.md. The first run downloads River with Go and graphile-worker with npm. Ends with a line "ratio to River: N.NN". Exit code 0 or 1.
#   ./scripts/bench.sh [--quick | --full] [--rows A,B] [--pairs N] [--write DIR|none]
#   --help   shows this text and all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

case ${1-} in
--help | -h)
	sed -n '2,5s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	echo
	;;
esac
need_go
# shellcheck disable=SC2034 # read by apt_install
no_services=1
need postgres=postgresql node=nodejs npm=npm
program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
(cd bench && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$program/" . ./simulate)
status=0
"$program/bench" "$@" || status=$?
# A run that has written the values changes what follows from them in docs/scaling.md, too.
if [[ $status == 0 && docs/benchmarks/values.json -nt $program/bench ]]; then
	"$program/simulate" --write docs/scaling.md || status=$?
fi
exit "$status"
