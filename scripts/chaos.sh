#!/usr/bin/env bash
# Runs the real programs under faults, and checks that no task, credit or picture is lost, doubled or paid for twice: a private PostgreSQL, a
# simulated API behind a simulated proxy, several processors, a load of tasks, and a schedule of faults that depends on the seed alone. Builds
# into a temporary directory and leaves nothing behind; after a failure it keeps logs and a dump, and names their directory. Exit code 0 or 1.
#   ./scripts/chaos.sh --seconds 90 --seed 1 [--tasks-per-second 7] [--fault-every 3s] [--processors 4]
#   --print-schedule   prints the faults instead
#   --help             shows this text and all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

case ${1-} in
--help | -h)
	sed -n '2,7s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	echo
	;;
esac
need_go
need postgres=postgresql
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$programs/" ./cmd/... ./internal/chaos
status=0
"$programs/chaos" --bin "$programs" "$@" || status=$?
exit "$status"
