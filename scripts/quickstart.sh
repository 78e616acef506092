#!/usr/bin/env bash
# Runs the whole system on this machine: installs PostgreSQL if it is missing and apt may be used, builds the four
# programs into bin/, and runs the demo. No root rights are needed if PostgreSQL is installed.
#   --clean   removes what this script and the demo made: the programs in bin/, and var/demo
#   --help    shows this text; all other options are passed to the demo (bin/task-processor demo --help)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# in_use prints why bin/ must stay, and returns 1 if nothing needs it.
in_use() {
	if crontab -l 2>/dev/null | grep -qxF "# BEGIN imagetasks $(pwd -P)"; then
		echo "the crontab runs them; to remove its entries: ./scripts/monitoring-setup.sh --uninstall"
	elif [[ -e task-processor.started && ! -e task-processor.stopped ]]; then
		echo "the processor was started here; to stop it: ./scripts/stop-processor.sh"
	else
		return 1
	fi
}

# clean removes only what is known to be made here; other files in bin/ and var/ stay, and then their directories too.
clean() {
	local name reason pid removed=''
	pid=$(head -n 1 var/demo/postgres/data/postmaster.pid 2>/dev/null) || pid=''
	[[ -z $pid ]] || ! kill -0 "$pid" 2>/dev/null || die "the demo is running (its PostgreSQL is process $pid); stop it first"
	if reason=$(in_use); then
		echo "kept: the programs in bin/ ($reason)"
	else
		for name in cmd/*; do
			[[ -f bin/${name#cmd/} ]] || continue
			rm -f "bin/${name#cmd/}"
			removed="$removed bin/${name#cmd/}"
		done
		[[ ! -d bin || -L bin ]] || rmdir bin 2>/dev/null || echo "kept: bin/ (it has other files)"
	fi
	if [[ -e var/demo || -L var/demo ]]; then
		rm -rf var/demo
		removed="$removed var/demo"
		[[ -L var ]] || rmdir var 2>/dev/null || echo "kept: var/ (it has other files)"
	fi
	if [[ -n $removed ]]; then echo "removed:$removed"; else echo "nothing to remove"; fi
}

case ${1-} in
--clean)
	[[ $# == 1 ]] || die "--clean takes no other options"
	clean
	exit
	;;
--help | -h)
	sed -n '2,5s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	exit
	;;
esac

began=$SECONDS
need_go
if have_modules; then need postgres=postgresql; else need certificates=ca-certificates postgres=postgresql; fi
[[ -x bin/task-processor ]] || echo "Building the four programs; the first time this takes about two minutes"
build bin
built=$SECONDS
status=0
bin/task-processor demo "$@" || status=$?
echo
echo "Total time: $((SECONDS - began)) s (preparation $((built - began)) s, demo $((SECONDS - built)) s). To remove everything again: ./scripts/quickstart.sh --clean"
exit "$status"
